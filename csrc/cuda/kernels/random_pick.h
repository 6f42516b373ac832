// Random selections (core/random.h): a warp an anchor counts its candidates, and picks one of them.
#pragma once

#include "core/random.h"
#include "cuda/gemm/packed_matrix.h"

namespace hardmine::cuda {

template <class MmaPolicy>
struct LabeledOperand {
  PackedMatrix<MmaPolicy> rows;
  const int64_t* label;  // [rows.count]
};

template <class MmaPolicy>
struct RandomPickParams {
  LabeledOperand<MmaPolicy> anchors, candidates;
  bool symmetric;   // the candidates are the anchors: an anchor is no candidate of itself
  bool same_class;  // candidates are positives, or else negatives
};

// Writes the pick of every anchor to best [anchors], its key being the order of the pair (core/selection.h). Candidates
// are those whose order is at most `upper`, and not NaN.
template <class MmaPolicy>
void pick_random(const RandomPickParams<MmaPolicy>& params, const double* uniform, typename MmaPolicy::acc_t upper,
                 PackedCandidate<typename MmaPolicy::acc_t>* best, const Stream& stream);

}  // namespace hardmine::cuda
