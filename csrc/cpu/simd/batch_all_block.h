// The kernels of the batch-all triplet loss, which compare the pairs of a block with the positives of their anchors.
#pragma once

#include "core/losses/batch_all.h"
#include "cpu/simd/batch_all_block_table.h"
#include "cpu/simd/block.h"
#include "cpu/simd/block_reductions.h"
#include "cpu/simd/gradient_gemm.h"
#include "cpu/simd/kernel_table.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// x = v + margin / 2 for one anchor and `width` negatives at sorted columns from `other` on. NaN stays NaN.
template <class T>
inline void add_margins(const BatchAllState<T>& state, int64_t anchor, int64_t other, int64_t count, int64_t width,
                        const T* v, T* x) {
  using V = Vec<T>;
  if (!state.margin_table) {
    const V half = V::broadcast(&state.half_margin);
    for (int64_t c = 0; c < width; c += V::kLanes) (V::load(v + c) + half).store(x + c);
    return;
  }
  const T* table = state.margin_table + state.table_row[anchor] * state.table_rows;
  for (int64_t c = 0; c < count; ++c) x[c] = v[c] + T(0.5) * table[state.column_table_row[other + c]];
  for (int64_t c = count; c < width; ++c) x[c] = std::numeric_limits<T>::quiet_NaN();
}

// Of the active triplets of an anchor in a block: the sum of v_an - v_ap, and their number.
struct ActiveTriplets {
  double value = 0;
  int64_t count = 0;
};

// Compares kCount positives of an anchor, from entry `first` on, with all negatives. weight[c] += active triplets of
// negative c. A triplet is active if x > v_ap. It adds v_an - v_ap here, and half the margin in active_margins: a
// margin rounded to the precision of v would bias all triplets alike.
template <int64_t kCount, class T>
inline void compare_positives(const BatchAllState<T>& state, int64_t first, int64_t width, const T* v, const T* x,
                              T* weight, ActiveTriplets& triplets) {
  using V = Vec<T>;
  const V one = constant<T>(1);
  const T no_tail[kPartials] = {};
  V positive[kCount];
  Partials<T> sums[kCount];
  int32_t active[kCount] = {};
#pragma GCC unroll 4
  for (int64_t p = 0; p < kCount; ++p) positive[p] = V::broadcast(state.positive + first + p);
  for (int64_t c = 0; c < width; c += kPartials)
#pragma GCC unroll 16
    for (int64_t k = 0; k < Partials<T>::kVecs; ++k) {
      const int64_t at = c + k * V::kLanes;
      const V value = V::load(v + at), bound = V::load(x + at);
      V count = V::load(weight + at);
#pragma GCC unroll 4
      for (int64_t p = 0; p < kCount; ++p) {
        const auto is_active = bound > positive[p];  // false for NaN
        active[p] += __builtin_popcount(is_active.bits());
        count = count + V::select(is_active, one, V::zero());
        sums[p].sum[k] = sums[p].sum[k] + V::select(is_active, value - positive[p], V::zero());
      }
      count.store(weight + at);
    }
#pragma GCC unroll 4
  for (int64_t p = 0; p < kCount; ++p) {
    triplets.value += static_cast<double>(sums[p].total(no_tail));
    triplets.count += active[p];
    state.active[first + p] += active[p];
  }
}

// An anchor with few positives compares each of them with all negatives, some at a time.
template <class T>
inline ActiveTriplets short_list(const BatchAllState<T>& state, int64_t anchor, int64_t width, const T* v, const T* x,
                                 T* weight) {
  constexpr int32_t kTogether = 4;
  const int64_t first = state.first[anchor];
  ActiveTriplets triplets;
  int32_t p = 0;
  for (; p + kTogether <= state.size[anchor]; p += kTogether)
    compare_positives<kTogether>(state, first + p, width, v, x, weight, triplets);
  for (; p < state.size[anchor]; ++p) compare_positives<1>(state, first + p, width, v, x, weight, triplets);
  return triplets;
}

// An anchor with many positives has them sorted. Those that form active triplets with a negative are a prefix.
template <class T>
inline ActiveTriplets long_list(const BatchAllState<T>& state, int64_t anchor, int64_t width, const T* v, const T* x,
                                T* weight) {
  const int64_t first = state.first[anchor];
  const T* ascending = state.ascending + first;
  ActiveTriplets triplets;
  for (int64_t c = 0; c < width; ++c) {
    if (!(x[c] > state.min_positive[anchor])) continue;
    const int32_t active =
        partition_point(int32_t{0}, state.size[anchor], [&](int32_t p) { return ascending[p] < x[c]; });
    triplets.value += static_cast<double>(active) * static_cast<double>(v[c]) - state.sum_through[first + active - 1];
    triplets.count += active;
    weight[c] += static_cast<T>(active);
    ++state.active[first + active - 1];
  }
  return triplets;
}

// The sum of margin / 2 over the active triplets of an anchor's row.
template <class T>
inline double active_margins(const BatchAllState<T>& state, int64_t anchor, int64_t other, int64_t count,
                             int64_t num_active, const T* weight) {
  if (!state.margin_table) return static_cast<double>(num_active) * state.exact_half_margin;
  const T* table = state.margin_table + state.table_row[anchor] * state.table_rows;
  double margins = 0;
  for (int64_t c = 0; c < count; ++c)
    margins += static_cast<double>(weight[c]) * (0.5 * static_cast<double>(table[state.column_table_row[other + c]]));
  return margins;
}

// Replaces the v of an anchor's row by weights. Returns false if all are 0. Entries from `count` to `width` are
// padding.
template <class T>
inline bool visit_anchor(const PairwiseParams<T>& params, const BatchAllState<T>& state, int64_t anchor, int64_t other,
                         int64_t count, int64_t width, T* row_scores) {
  using V = Vec<T>;
  alignas(64) T x[kMaxBlockColumns], weight[kMaxBlockColumns] = {};
  bool any = false;
  if (state.size[anchor] > 0) {
    add_margins(state, anchor, other, count, width, row_scores, x);
    const V min_positive = V::broadcast(state.min_positive + anchor);
    typename V::Mask active{};
    for (int64_t c = 0; c < width; c += V::kLanes) active = active | (V::load(x + c) > min_positive);
    any = active.bits() != 0;
  }
  if (any) {
    const ActiveTriplets triplets = state.size[anchor] <= kShortList
                                        ? short_list(state, anchor, width, row_scores, x, weight)
                                        : long_list(state, anchor, width, row_scores, x, weight);
    state.value[anchor] += triplets.value;
    state.value[anchor] += active_margins(state, anchor, other, count, triplets.count, weight);
    if (params.euclidean && !state.squared)
      for (int64_t c = 0; c < count; ++c) weight[c] = batch_all_distance_weight(weight[c], row_scores[c]);
  }
  for (int64_t c = 0; c < width; c += V::kLanes) V::load(weight + c).store(row_scores + c);
  return any;
}

template <class T>
bool batch_all_negatives(const PairwiseParams<T>& params, const Block& block, const BatchAllState<T>& state, T* scores,
                         T* scratch) {
  const int64_t rows = block.rows(), columns = block.columns(), width = buffer_width(block);
  const int64_t height = round_up(rows, kBufferStep);
  for (int64_t i = 0; i < rows; ++i) {
    T* row_scores = scores + i * kMaxBlockColumns;
    for (int64_t c = 0; c < width; ++c) row_scores[c] = batch_all_v(params.euclidean, state.squared, row_scores[c]);
  }
  // The transposed block: its columns are anchors, its rows negatives.
  for (int64_t c = 0; params.symmetric && c < columns; ++c) {
    T* row_scores = scratch + c * kMaxBlockRows;
    for (int64_t i = 0; i < rows; ++i) row_scores[i] = scores[i * kMaxBlockColumns + c];
    for (int64_t i = rows; i < height; ++i) row_scores[i] = std::numeric_limits<T>::quiet_NaN();
  }
  bool any_row = false, any_column = false;
  for (int64_t i = 0; i < rows; ++i)
    any_row |= visit_anchor(params, state, block.row_begin + i, block.column_begin, columns, width,
                            scores + i * kMaxBlockColumns);
  for (int64_t c = 0; params.symmetric && c < columns; ++c)
    any_column |=
        visit_anchor(params, state, block.column_begin + c, block.row_begin, rows, height, scratch + c * kMaxBlockRows);
  if (!state.need_weights || !(any_row || any_column)) return false;
  if (any_column)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < columns; ++c) scores[i * kMaxBlockColumns + c] += scratch[c * kMaxBlockRows + i];
  pad_weights(block, scores);
  return true;
}

template <class T>
void batch_all_positives(const PairwiseParams<T>& params, const Block& block, const BatchAllState<T>& state,
                         T* scores) {
  const bool of_distances = params.euclidean && !state.squared;
  const int64_t width = buffer_width(block);
  for (int64_t i = 0; i < block.rows(); ++i) {
    const int64_t row = block.row_begin + i;
    T* row_scores = scores + i * kMaxBlockColumns;
    const ClassRun run = class_run(params, block, row);
    for (int64_t c = 0; c < (of_distances ? run.begin : width); ++c) row_scores[c] = T(0);
    for (int64_t c = run.begin; c < run.end; ++c) {
      const int64_t column = block.column_begin + c;
      int32_t active = 0;
      // Entry p of a row's list is the p-th column of its class. Pairs that are none have no active triplets.
      if (!params.symmetric || column > row) {  // else visited as (column, row)
        const int64_t class_begin = state.class_begin[row];
        if (state.size[row]) active += state.active[state.first[row] + column - class_begin];
        if (params.symmetric && state.size[column]) active += state.active[state.first[column] + row - class_begin];
      }
      T weight = -static_cast<T>(active);
      if (of_distances)
        weight = active ? batch_all_distance_weight(weight, batch_all_v(true, false, row_scores[c])) : T(0);
      row_scores[c] = weight;
    }
    for (int64_t c = of_distances ? run.end : width; c < width; ++c) row_scores[c] = T(0);
  }
  pad_weights(block, scores);
}

HARDMINE_PROVIDE_KERNELS(BatchAllKernels, .batch_all_negatives = batch_all_negatives<T>,
                         .batch_all_positives = batch_all_positives<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
