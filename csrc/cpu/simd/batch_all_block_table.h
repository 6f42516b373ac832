// The batch-all triplet loss: triplets of the pairs (anchor, negative) of a block and the anchors' positives.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// The state of a pass of the batch-all triplet loss. A triplet's value is max(0, v_an + margin / 2 - v_ap), where v is
// the similarity of unit rows, -|a - b|^2 / 2, or -|a - b| / 2.
template <class T>
struct BatchAllState {
  // The anchors' lists of positives. positive[first[i] + p] is the v of sorted row i and the p-th column of its class,
  // or +infinity for the row itself and for an excluded pair. Rows that are not anchors of this pass have size 0.
  const int64_t* first;
  const int32_t* size;
  const int64_t* class_begin;  // per row, the first sorted column of its class
  const T* positive;
  const T* min_positive;  // per row, the smallest v of its positives
  // For lists longer than kShortList: the entries in ascending order, and the sums of all entries up to each,
  // inclusive.
  const T* ascending;
  const double* sum_through;
  // Active triplets per entry. While negatives are visited, entry e of a long list counts the negatives whose active
  // positives are the first e + 1 in ascending order.
  int32_t* active;

  T half_margin;
  double exact_half_margin;
  const T* margin_table;     // unless null, the margin is [table_row[anchor] * table_rows + column_table_row[negative]]
  const int32_t* table_row;  // [rows]
  const int32_t* column_table_row;  // [columns]
  int64_t table_rows;
  bool squared;
  double* value;  // per anchor, the sum of its triplets' values
  bool need_weights;
};
inline constexpr int32_t kShortList = 32;

template <class T>
struct BatchAllKernels {
  // Replaces the scores of a block of other-class pairs by the weights of the gradient (cpu/engine/block_gradient.h) of
  // the sum of all triplets. Rows are anchors, and if the pass is symmetric, columns too. Returns false if all weights
  // are 0. `scratch` has [kMaxBlockColumns][kMaxBlockRows] elements, or none if the pass is not symmetric.
  bool (*batch_all_negatives)(const PairwiseParams<T>& params, const Block& block, const BatchAllState<T>& state,
                              T* scores, T* scratch);
  // The same for a block of same-class pairs, from their counts of active triplets. Reads scores only of distances that
  // are not squared.
  void (*batch_all_positives)(const PairwiseParams<T>& params, const Block& block, const BatchAllState<T>& state,
                              T* scores);
};

}  // namespace hardmine::cpu
