// The kernels of the tuplet losses: sums of exponentials and of softplus over a block, and the derivatives.
#pragma once

#include "cpu/simd/block.h"
#include "cpu/simd/block_reductions.h"
#include "cpu/simd/gradient_gemm.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/switch_bools.h"
#include "cpu/simd/tuplet_block_table.h"

namespace hardmine::cpu::HARDMINE_TARGET {

template <bool kEuclidean, bool kOneShift, bool kColumns, class T>
void exponential_sums_of(const Block& block, const T* scores, const ExponentialSums<T>& sums) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const V log2e_over_temperature = V::broadcast(&sums.log2e_over_temperature);
  ColumnSums<T> column_sums;
  for (int64_t i = 0; i < block.rows(); ++i) {
    const T* row_scores = scores + i * kMaxBlockColumns;
    const V shift = V::broadcast(kOneShift ? &sums.shift : sums.row_shift + block.row_begin + i);
    const T total = sum_of_row<T>(width, [&](int64_t c) {
      const V s = similarity_of<kEuclidean>(V::load(row_scores + c));
      const V of_row = exp2((s - shift) * log2e_over_temperature);
      if constexpr (kColumns) {
        column_sums.add(
            c, kOneShift ? of_row
                         : exp2((s - V::load(sums.column_shift + block.column_begin + c)) * log2e_over_temperature));
      }
      return of_row;
    });
    sums.row_sum[block.row_begin + i] += static_cast<double>(total);
  }
  if constexpr (kColumns) column_sums.flush(block, sums.column_sum);
}

template <class T>
void exponential_sums(const PairwiseParams<T>& params, const Block& block, const T* scores,
                      const ExponentialSums<T>& sums) {
  using Function = void (*)(const Block&, const T*, const ExponentialSums<T>&);
  const Function function = switch_bools(
      []<bool kEuclidean, bool kOneShift, bool kColumns>() -> Function {
        return exponential_sums_of<kEuclidean, kOneShift, kColumns, T>;
      },
      params.euclidean, sums.row_shift == nullptr, sums.column_sum != nullptr);
  function(block, scores, sums);
}

// Reads only the columns of the row's class, extended to whole vectors.
template <bool kEuclidean, bool kColumns, class T>
void softplus_sums_of(const PairwiseParams<T>& params, const Block& block, const T* scores,
                      const SoftplusSums<T>& sums) {
  using V = Vec<T>;
  const V inv_temperature = V::broadcast(&sums.inv_temperature);
  ColumnSums<T> column_sums, column_slopes;
  for (int64_t i = 0; i < block.rows(); ++i) {
    const int64_t row = block.row_begin + i;
    const ClassRun run = class_run(params, block, row);
    if (run.begin == run.end) continue;
    const T* row_scores = scores + i * kMaxBlockColumns;
    alignas(64) T kept[kMaxBlockColumns];
    const int64_t first = round_down(run.begin, kPartials);
    const int64_t width = round_up(run.end - first, kPartials);
    int64_t count = 0;
    for (int64_t c = first; c < first + width; ++c) {
      const bool keep = c >= run.begin && c < run.end && (kEuclidean ? -row_scores[c] : row_scores[c]) <= sums.limit;
      kept[c] = keep ? row_scores[c] : std::numeric_limits<T>::quiet_NaN();
      count += keep;
      if (kColumns && keep) ++sums.column_count[block.column_begin + c];
    }
    sums.row_count[row] += count;
    const V shift = V::broadcast(sums.row_shift + row), log_sum = V::broadcast(sums.row_log_sum + row);
    alignas(64) T slopes[kMaxBlockColumns];
    const T total = sum_of_row<T>(width, [&](int64_t offset) {
      const int64_t c = first + offset;
      const V s = similarity_of<kEuclidean>(V::load(kept + c));
      const auto known = s >= s;
      if constexpr (kColumns) {
        const int64_t column = block.column_begin + c;
        const V x =
            fma(V::load(sums.column_shift + column) - s, inv_temperature, V::load(sums.column_log_sum + column));
        const V e = decay(x);
        column_sums.add(c, V::select(known, softplus(x, e), V::zero()));
        column_slopes.add(c, V::select(known, sigmoid(x, e), V::zero()));
      }
      const V x = fma(shift - s, inv_temperature, log_sum), e = decay(x);
      V::select(known, sigmoid(x, e), V::zero()).store(slopes + offset);
      return V::select(known, softplus(x, e), V::zero());
    });
    sums.row_sum[row] += static_cast<double>(total);
    sums.row_slope[row] += static_cast<double>(sum_of_row<T>(width, [&](int64_t c) { return V::load(slopes + c); }));
  }
  if constexpr (kColumns) {
    column_sums.flush(block, sums.column_sum);
    column_slopes.flush(block, sums.column_slope);
  }
}

template <class T>
void softplus_sums(const PairwiseParams<T>& params, const Block& block, const T* scores, const SoftplusSums<T>& sums) {
  using Function = void (*)(const PairwiseParams<T>&, const Block&, const T*, const SoftplusSums<T>&);
  const Function function = switch_bools(
      []<bool kEuclidean, bool kColumns>() -> Function { return softplus_sums_of<kEuclidean, kColumns, T>; },
      params.euclidean, sums.column_sum != nullptr);
  function(params, block, scores, sums);
}

// The derivatives by the similarities of a row, as if all columns were negatives.
template <bool kEuclidean, bool kOneShift, bool kSymmetric, class T>
inline void negative_weights(const TupletWeights<T>& w, int64_t row, int64_t column, int64_t width, T* row_scores) {
  using V = Vec<T>;
  const V log2e_over_temperature = V::broadcast(&w.log2e_over_temperature);
  const V row_shift = V::broadcast(kOneShift ? &w.shift : w.rows.shift + row);
  const V row_weight = V::broadcast(w.rows.negative_weight + row);
  for (int64_t c = 0; c < width; c += V::kLanes) {
    const V s = similarity_of<kEuclidean>(V::load(row_scores + c));
    const V of_row = exp2((s - row_shift) * log2e_over_temperature);
    V weight = row_weight * of_row;
    if constexpr (kSymmetric) {
      const V of_column =
          kOneShift ? of_row : exp2((s - V::load(w.columns.shift + column + c)) * log2e_over_temperature);
      weight = fma(V::load(w.columns.negative_weight + column + c), of_column, weight);
    }
    weight.store(row_scores + c);
  }
}

// The derivatives by the similarities of positives, columns [run.begin, run.end) of a row. `original` holds the scores.
template <bool kEuclidean, bool kSymmetric, class T>
inline void positive_weights(const PairwiseParams<T>& params, const TupletWeights<T>& w, int64_t row, int64_t column,
                             const ClassRun& run, const T* original, T* row_scores) {
  using V = Vec<T>;
  if (w.rows.positive) {
    for (int64_t c = run.begin; c < run.end; ++c) {
      const bool candidate = original[c] == original[c];  // neither (i, i) nor visited as (j, i)
      T weight = T(0);
      if (candidate && params.columns.id[column + c] == w.rows.positive[row]) weight -= w.rows.positive_weight[row];
      if (kSymmetric && candidate && params.rows.id[row] == w.columns.positive[column + c])
        weight -= w.columns.positive_weight[column + c];
      row_scores[c] = weight;
    }
    return;
  }
  alignas(64) T weights[kMaxBlockColumns];
  const V inv_temperature = V::broadcast(&w.inv_temperature);
  const V shift = V::broadcast(w.rows.shift + row), log_sum = V::broadcast(w.rows.log_sum + row);
  const V row_weight = V::broadcast(w.rows.positive_weight + row);
  const V limit = V::broadcast(&w.limit);
  for (int64_t c = round_down(run.begin, V::kLanes); c < run.end; c += V::kLanes) {
    const V score = V::load(original + c);
    const V s = similarity_of<kEuclidean>(score), of_row = fma(shift - s, inv_temperature, log_sum);
    V weight = row_weight * sigmoid(of_row, decay(of_row));
    if constexpr (kSymmetric) {
      const V of_column =
          fma(V::load(w.columns.shift + column + c) - s, inv_temperature, V::load(w.columns.log_sum + column + c));
      weight = fma(V::load(w.columns.positive_weight + column + c), sigmoid(of_column, decay(of_column)), weight);
    }
    const auto counts = (kEuclidean ? -score : score) <= limit;  // false for NaN
    V::select(counts, -weight, V::zero()).store(weights + c);
  }
  for (int64_t c = run.begin; c < run.end; ++c) row_scores[c] = weights[c];
}

template <bool kEuclidean, bool kOneShift, bool kSymmetric, class T>
void tuplet_weights_of(const PairwiseParams<T>& params, const Block& block, const TupletWeights<T>& w, T* scores) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  for (int64_t i = 0; i < block.rows(); ++i) {
    T* row_scores = scores + i * kMaxBlockColumns;
    const int64_t row = block.row_begin + i;
    const ClassRun run = class_run(params, block, row);
    alignas(64) T original[kMaxBlockColumns];
    if (kEuclidean || run.begin < run.end)
      for (int64_t c = 0; c < width; ++c) original[c] = row_scores[c];
    negative_weights<kEuclidean, kOneShift, kSymmetric>(w, row, block.column_begin, width, row_scores);
    if (run.begin < run.end)
      positive_weights<kEuclidean, kSymmetric>(params, w, row, block.column_begin, run, original, row_scores);
    if constexpr (kEuclidean) {
      // s = -d, so ds / dx = (y - x) / d. At d = 0 the subgradient is 0, as for PyTorch's norm.
      const V min_square = constant<T>(std::numeric_limits<T>::min());
      for (int64_t c = 0; c < width; c += V::kLanes) {
        const V square = V::load(original + c);
        V::select(square >= min_square, V::load(row_scores + c) / sqrt(square), V::zero()).store(row_scores + c);
      }
    }
  }
  pad_weights(block, scores);
}

template <class T>
void tuplet_weights(const PairwiseParams<T>& params, const Block& block, const TupletWeights<T>& weights, T* scores) {
  using Function = void (*)(const PairwiseParams<T>&, const Block&, const TupletWeights<T>&, T*);
  const Function function = switch_bools(
      []<bool kEuclidean, bool kOneShift, bool kSymmetric>() -> Function {
        return tuplet_weights_of<kEuclidean, kOneShift, kSymmetric, T>;
      },
      params.euclidean, weights.one_shift, params.symmetric);
  function(params, block, weights, scores);
}

HARDMINE_PROVIDE_KERNELS(TupletKernels, .exponential_sums = exponential_sums<T>, .softplus_sums = softplus_sums<T>,
                         .tuplet_weights = tuplet_weights<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
