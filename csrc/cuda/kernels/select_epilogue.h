// The epilogue of a selection: from the best candidates of every anchor to indices, similarities and the loss.
#pragma once

#include <limits>

#include "cuda/gemm/row_stats.h"
#include "cuda/kernels/select_triplets.h"

namespace hardmine::cuda {

template <class acc_t>
struct SelectionEpilogue {
  int64_t count;
  Similarity similarity;
  const PackedCandidate<acc_t>* positive;                     // [count]
  const PackedCandidate<acc_t>* negative;                     // [count]
  const PackedCandidate<acc_t>* fallback;                     // [count]: for anchors without a negative; null: none
  bool positive_negated, negative_negated, fallback_negated;  // keys are negated, as the least similar wins
  FiniteFlags<2> finite;                                      // of the rows and, with refs, of the columns
  SelectionOut<acc_t> out;
  LossOut<acc_t> loss;
  double* partial;       // [blocks][kTermSums]: the sums of every block
  int32_t* blocks_done;  // [1], starts at 0
};

inline constexpr size_t kSelectionEpilogueSharedBytes = kTermSums * kMaxWarps * sizeof(double);

template <class acc_t>
__device__ __forceinline__ void write_pair(const SelectionEpilogue<acc_t>& epilogue, const PackedCandidate<acc_t>& best,
                                           bool negated, int64_t* index, acc_t* similarity, acc_t* key) {
  const bool found = is_candidate(best.index());
  const acc_t not_negated = negated ? -best.key() : best.key(), nan = std::numeric_limits<acc_t>::quiet_NaN();
  *index = found ? best.index() : -1;
  *similarity = found ? similarity_from_key(epilogue.similarity, not_negated) : nan;
  if (key) *key = found ? not_negated : nan;
}

// All threads of a block call it. `alone`: this block processes all anchors; otherwise the blocks of the grid divide
// them.
template <class acc_t>
__device__ __forceinline__ void finalize_selection(const SelectionEpilogue<acc_t>& epilogue, bool alone, char* shared) {
  auto* exchange = reinterpret_cast<double*>(shared);
  const SelectionOut<acc_t>& out = epilogue.out;
  const SelectedPairs<acc_t> pairs{out.positive_index, out.negative_index, out.positive_similarity,
                                   out.negative_similarity, epilogue.count};
  const bool has_nonfinite = epilogue.loss.loss && epilogue.finite.block_any_nonfinite();
  const acc_t nan = std::numeric_limits<acc_t>::quiet_NaN();
  double sum[kTermSums] = {};
  const int64_t first = alone ? 0 : int64_t{blockIdx.x} * blockDim.x,
                step = alone ? blockDim.x : int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = first + threadIdx.x; i < epilogue.count; i += step) {
    write_pair(epilogue, load(epilogue.positive + i), epilogue.positive_negated, out.positive_index + i,
               out.positive_similarity + i, out.positive_key ? out.positive_key + i : nullptr);
    const PackedCandidate<acc_t> negative = load(epilogue.negative + i);
    const bool falls_back = epilogue.fallback && !is_candidate(negative.index());
    write_pair(epilogue, falls_back ? load(epilogue.fallback + i) : negative,
               falls_back ? epilogue.fallback_negated : epilogue.negative_negated, out.negative_index + i,
               out.negative_similarity + i, out.negative_key ? out.negative_key + i : nullptr);
    if (!epilogue.loss.loss) continue;
    const TripletTerm<acc_t> term = term_of(epilogue.loss.term, pairs, i);
    if (epilogue.loss.reduction == Reduction::kNone) epilogue.loss.loss[i] = has_nonfinite ? nan : term.value;
    add_term(term, sum);
  }
  if (!epilogue.loss.loss || epilogue.loss.reduction == Reduction::kNone) return;
  block_reduce_sum<kTermSums>(sum, exchange);
  if (!alone && gridDim.x > 1) {
    if (threadIdx.x == 0)
      for (int s = 0; s < kTermSums; ++s) epilogue.partial[int64_t{blockIdx.x} * kTermSums + s] = sum[s];
    if (!grid_is_last_block(epilogue.blocks_done)) return;
    // In the order of the blocks; block_reduce_partials() would add in another order, with other bits.
    if (threadIdx.x == 0) {
#pragma unroll
      for (int s = 0; s < kTermSums; ++s) sum[s] = 0;
      for (int64_t b = 0; b < gridDim.x; ++b)
#pragma unroll
        for (int s = 0; s < kTermSums; ++s) sum[s] += epilogue.partial[b * kTermSums + s];
    }
  }
  if (threadIdx.x != 0) return;
  // A non-finite embedding makes the loss NaN: divergence is never hidden.
  *epilogue.loss.loss =
      has_nonfinite ? nan : static_cast<acc_t>(reduced_loss(epilogue.loss.term, epilogue.loss.reduction, sum));
}

}  // namespace hardmine::cuda
