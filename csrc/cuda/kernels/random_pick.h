// Random selections (core/random.h): one warp per anchor counts the candidates, and picks one.
#pragma once

#include "core/random.h"
#include "cuda/gemm/candidate_tile.h"

namespace hardmine::cuda {

template <class MmaPolicy>
struct LabeledOperand {
  PackedMatrix<MmaPolicy> rows;
  const int64_t* label;  // [rows.count]
};

template <class MmaPolicy>
struct RandomPickParams {
  LabeledOperand<MmaPolicy> anchors, candidates;
  PairIds ids;
  bool symmetric;   // the candidates are the anchors, and no anchor is its own candidate
  bool same_class;  // candidates are positives, otherwise negatives
};

// Writes each anchor's pick to best [anchors], with the pair's key (core/selection.h). Candidates have a key <= upper
// that is not NaN.
template <class MmaPolicy>
void pick_random(const RandomPickParams<MmaPolicy>& params, const double* uniform, typename MmaPolicy::acc_t upper,
                 PackedCandidate<typename MmaPolicy::acc_t>* best, const Stream& stream);

}  // namespace hardmine::cuda
