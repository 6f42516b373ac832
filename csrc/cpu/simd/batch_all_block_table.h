// The batch-all triplet loss: every pair (anchor, negative) of a block against all of the anchor's positives.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// What a pass of the batch-all triplet loss works on. In terms of v, which grows with the similarity - s of unit rows,
// -|a - b|^2 / 2, or -|a - b| / 2 - a triplet's value is max(0, v_an + margin / 2 - v_ap).
template <class T>
struct BatchAllState {
  // The anchors' positives: v of entry first[i] + p is that of sorted row i and the p-th row of its class, +infinity
  // for itself. Rows that are no anchors of this pass have size 0.
  const int64_t* first;
  const int32_t* size;
  const int64_t* class_begin;  // the first sorted row of every row's class
  const T* positive;
  const T* min_positive;  // the smallest v of every row's positives
  // Of rows with more than kShortList entries also ascending, with the sums of all before.
  const T* ascending;
  const double* sum_before;
  // Active triplets of every entry. While negatives are visited, a long list's entry e counts those negatives whose
  // active positives are the first e + 1 in ascending order.
  int32_t* active;

  T half_margin;
  double exact_half_margin;
  const T* margin_table;     // margin_table[table_row[anchor] * table_rows + table_row[negative]] instead, if not null
  const int32_t* table_row;  // [rows]
  int64_t table_rows;
  bool squared;
  double* value;  // sum of every anchor's triplets
  bool need_weights;
};
inline constexpr int32_t kShortList = 32;

template <class T>
struct BatchAllKernels {
  // Replaces the scores of a block of other-class pairs by the weights of the gradient of all triplets' sum (see
  // block_gradient.h); returns false if all are 0. `scratch` has room for [kMaxBlockColumns][kMaxBlockRows] scores.
  bool (*batch_all_negatives)(const PairwiseParams<T>& params, const Block& block, const BatchAllState<T>& state,
                              T* scores, T* scratch);
  // Likewise those of a block of same-class pairs, from the scores of active triplets of each.
  void (*batch_all_positives)(const PairwiseParams<T>& params, const Block& block, const BatchAllState<T>& state,
                              T* scores);
};

}  // namespace hardmine::cpu
