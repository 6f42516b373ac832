// A matrix of embeddings, packed for the tile engine.
#pragma once

#include "core/int_math.h"
#include "cuda/device/launch.h"
#include "cuda/device/packed_candidate.h"
#include "cuda/gemm/mma_policy.h"
#include "cuda/gemm/row_stats.h"

namespace hardmine::cuda {

// A matrix in panels.
template <class MmaPolicy>
struct PackedMatrix {
  using acc_t = typename MmaPolicy::acc_t;
  char* panels;     // [panels_of(count)][panel_bytes(depth)]
  acc_t* factor;    // [count]: scores are multiplied by those of their row and column; null: 1
  int32_t* finite;  // [finite_flag_count(count)]: whether all rows of the group, and their norms, are finite
  int64_t count;
  int64_t depth;

  HARDMINE_HD const char* panel(int64_t i) const { return panels + i * panel_bytes<MmaPolicy>(depth); }
};

// The initial state of a selection, written by the packing kernel to save a launch.
template <class acc_t>
struct SelectionStart {
  static constexpr int kMaxSelections = 3;
  PackedCandidate<acc_t>* best[kMaxSelections] = {};  // [count] each; null: none
  PackedCandidate<acc_t> value[kMaxSelections] = {};
  int32_t* blocks_done = nullptr;  // [1], set to 0
};

// Packs x [count, depth] for the scores of a measure.
//   Normalized: 2-byte rows are packed as they are, and their products are multiplied by inverse norms, which loses
//   nothing. Other rows are divided by their norms first.
//   Hyperbolic, with squared differences: the last element, the gap, is packed as 0, and makes the row's factor.
template <class MmaPolicy, class Scalar>
PackedMatrix<MmaPolicy> pack_matrix(const Scalar* x, int64_t count, int64_t depth, const PairMeasure& measure,
                                    Workspace& workspace, const Stream& stream,
                                    const SelectionStart<typename MmaPolicy::acc_t>& start = {});

// Calls body<quantity>(), for kernels that make similarities of scores: one for every quantity, because hyperbolic
// distances take registers that the others need.
template <class MmaPolicy, class Body>
auto with_pair_quantity(Similarity similarity, const Body& body) {
  if constexpr (!MmaPolicy::kSquaredDifferences) {
    return body.template operator()<PairQuantity::kInnerProduct>();
  } else {
    return is_hyperbolic(measure_of(similarity)) ? body.template operator()<PairQuantity::kNegativeHyperbolicDistance>()
                                                 : body.template operator()<PairQuantity::kNegativeDistance>();
  }
}

}  // namespace hardmine::cuda
