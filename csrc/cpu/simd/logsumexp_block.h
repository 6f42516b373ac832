// The kernels of log-sum-exps: one pass with running maxima.
//
// A pair that serves both its rows needs two exponentials, one relative to each row's maximum. If the maxima of the
// block's rows and columns are close together, one exponential relative to a shift of the whole block serves both, and
// the sums are scaled afterwards. Whether they are depends on the scores only, so that all targets agree.
#pragma once

#include "cpu/simd/block.h"
#include "cpu/simd/block_reductions.h"
#include "cpu/simd/gradient_gemm.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/logsumexp_block_table.h"
#include "cpu/simd/switch_bools.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// The largest distance between maxima for a common shift, as an exponent of 2. exp2 is 0 below -125, so exponentials
// down to 2^-61 of a row's largest are not lost, and scaling by 2^64 does not overflow a float.
inline constexpr double kMaxShiftSpread = 64;

template <class T>
inline Vec<T> max_of(Vec<T> a, Vec<T> b) {
  return Vec<T>::select(a > b, a, b);  // b if a is NaN
}
template <class T>
inline Vec<T> min_of(Vec<T> a, Vec<T> b) {
  return Vec<T>::select(b > a, a, b);
}
template <class T>
inline T max_lane(Vec<T> v) {
  T lane[Vec<T>::kLanes];
  v.store(lane);
  T best = lane[0];
  for (int64_t k = 1; k < Vec<T>::kLanes; ++k) best = lane[k] > best ? lane[k] : best;
  return best;
}

// Numbers of the rows and of the columns of a block.
template <class T>
struct BlockVectors {
  alignas(64) T row[kMaxBlockRows];
  alignas(64) T column[kMaxBlockColumns];
};

// The sums of a block relative to `shift`, or to a shift per row and column.
template <class T>
struct BlockTotals {
  BlockVectors<T> sum, offset;
};

// The range of shifts of rows and columns that are finite; empty if there is none.
template <class T>
struct ShiftRange {
  Vec<T> low = constant<T>(std::numeric_limits<T>::infinity()), high = constant<T>(-std::numeric_limits<T>::infinity());

  void add(const T* shift, int64_t count) {
    using V = Vec<T>;
    const V infinity = constant<T>(std::numeric_limits<T>::infinity());
    for (int64_t i = 0; i < count; i += V::kLanes) {
      const V s = V::load(shift + i);
      low = min_of(V::select(s > -infinity, s, infinity), low);
      high = max_of(V::select(infinity > s, s, -infinity), high);
    }
  }
  T max() const { return max_lane(high); }
  T min() const { return -max_lane(-low); }
};

// PairLogit of vectors.
template <class T>
struct VecLogit {
  using V = Vec<T>;
  bool is_circle;
  V sign, center, margin;

  explicit VecLogit(const PairLogit<T>& logit)
      : is_circle(logit.is_circle),
        sign(V::broadcast(&logit.sign)),
        center(V::broadcast(&logit.center)),
        margin(V::broadcast(&logit.margin)) {}
  V weight(V s) const { return max_of(sign * s + center + margin, V::zero()); }
  V value(V s) const { return is_circle ? weight(s) * (sign * s + center - margin) : sign * s; }
  V slope(V s) const { return is_circle ? sign * weight(s) : sign; }
};

// Replaces the similarities of a row by logits, and those that are not above the bound by NaN.
template <class T>
inline void logits_of_row(const VecLogit<T>& logit, const T* bound, int64_t width, T* row_scores) {
  using V = Vec<T>;
  const V nan = constant<T>(std::numeric_limits<T>::quiet_NaN());
  const V low = bound ? V::broadcast(bound) : constant<T>(-std::numeric_limits<T>::infinity());
  for (int64_t c = 0; c < width; c += V::kLanes) {
    const V s = V::load(row_scores + c);
    V::select(logit.sign * s > low, logit.value(s), nan).store(row_scores + c);
  }
}

template <class T>
__attribute__((noinline)) void hyperbolic_similarities(int64_t count, T* scores) {
  for (int64_t c = 0; c < count; ++c) scores[c] = -hyperbolic_distance(scores[c]);
}

template <class T>
inline void similarities_of_block(const PairwiseParams<T>& params, const Block& block, T* scores) {
  using V = Vec<T>;
  if (params.hyperbolic) {
    for (int64_t i = 0; i < block.rows(); ++i) hyperbolic_similarities(block.columns(), scores + i * kMaxBlockColumns);
    return;
  }
  for (int64_t i = 0; i < block.rows(); ++i)
    for (int64_t c = 0; c < buffer_width(block); c += V::kLanes) {
      T* at = scores + i * kMaxBlockColumns + c;
      similarity_of<true>(V::load(at)).store(at);
    }
}

// Adds up positives, and removes them from the block if the log-sum-exp is without them.
template <class T>
void take_positives(const PairwiseParams<T>& params, const Block& block, const LogSumExpUpdate<T>& update, T* scores) {
  for (int64_t i = 0; i < block.rows(); ++i) {
    const int64_t row = block.row_begin + i;
    const ClassRun run = class_run(params, block, row);
    double sum = 0;
    int64_t count = 0;
    for (int64_t c = run.begin; c < run.end; ++c) {
      T& s = scores[i * kMaxBlockColumns + c];
      if (s == s) {
        sum += static_cast<double>(s);
        ++count;
        if (update.column_positives.sum) {
          update.column_positives.sum[block.column_begin + c] += static_cast<double>(s);
          ++update.column_positives.count[block.column_begin + c];
        }
      }
      if (update.excludes_positives) s = std::numeric_limits<T>::quiet_NaN();
    }
    update.row_positives.sum[row] += sum;
    update.row_positives.count[row] += count;
  }
}

// The largest similarity of each row and column, in this block and before.
template <bool kColumns, class T>
inline void block_maxima(const Block& block, const LogSumExpUpdate<T>& update, const T* scores, BlockVectors<T>& best) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const V nothing = constant<T>(-std::numeric_limits<T>::infinity());
  for (int64_t i = 0; i < kMaxBlockRows; i += V::kLanes) nothing.store(best.row + i);
  if constexpr (kColumns)
    for (int64_t c = 0; c < width; c += V::kLanes)
      V::load(update.columns.shift + block.column_begin + c).store(best.column + c);
  for (int64_t i = 0; i < block.rows(); ++i) {
    V of_row = V::broadcast(update.rows.shift + block.row_begin + i);
    for (int64_t c = 0; c < width; c += V::kLanes) {
      const V s = V::load(scores + i * kMaxBlockColumns + c);
      of_row = max_of(s, of_row);
      if constexpr (kColumns) max_of(s, V::load(best.column + c)).store(best.column + c);
    }
    best.row[i] = max_lane(of_row);
  }
}

// The sums of exponentials of a block. kShared: relative to `shared_shift`; otherwise to the maxima `best`.
template <bool kColumns, bool kShared, bool kOffsets, class T>
inline void block_totals(const Block& block, T log2e_over_temperature, const T* scores, const BlockVectors<T>& best,
                         T shared_shift, BlockTotals<T>& totals) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const V factor = V::broadcast(&log2e_over_temperature);
  const V lowest = constant<T>(-std::numeric_limits<T>::max());
  if constexpr (kColumns)
    for (int64_t c = 0; c < width; c += V::kLanes) {
      V::zero().store(totals.sum.column + c);
      V::zero().store(totals.offset.column + c);
    }
  for (int64_t i = 0; i < kMaxBlockRows; ++i) totals.sum.row[i] = totals.offset.row[i] = T(0);
  for (int64_t i = 0; i < block.rows(); ++i) {
    const T* row_scores = scores + i * kMaxBlockColumns;
    const V shift = V::broadcast(kShared ? &shared_shift : best.row + i);
    const T no_tail[kPartials] = {};
    Partials<T> sums, offsets;
    for (int64_t c = 0; c < width; c += kPartials) {
#pragma GCC unroll 16
      for (int64_t v = 0; v < Partials<T>::kVecs; ++v) {
        const int64_t k = c + v * V::kLanes;
        const V s = V::load(row_scores + k), distance = s - shift;
        const V e = exp2(distance * factor);
        sums.sum[v] = sums.sum[v] + e;
        // Without a pair s is NaN, and e is 0.
        const V offset = kOffsets ? e * max_of(distance, lowest) : e;
        if constexpr (kOffsets) offsets.sum[v] = offsets.sum[v] + offset;
        if constexpr (kColumns) {
          V of_column = e, column_offset = offset;
          if constexpr (!kShared) {
            const V column_distance = s - V::load(best.column + k);
            of_column = exp2(column_distance * factor);
            if constexpr (kOffsets) column_offset = of_column * max_of(column_distance, lowest);
          }
          (V::load(totals.sum.column + k) + of_column).store(totals.sum.column + k);
          if constexpr (kOffsets) (V::load(totals.offset.column + k) + column_offset).store(totals.offset.column + k);
        }
      }
    }
    totals.sum.row[i] = sums.total(no_tail);
    if constexpr (kOffsets) totals.offset.row[i] = offsets.total(no_tail);
  }
}

// Adds the totals of `count` rows, relative to from[i], to their running sums, whose shifts become max(shift, best).
// As long as the rows of a block are also its columns, the columns' shifts have changed since `best` was computed.
template <class T>
inline void merge_totals(const RunningLogSumExp<T>& running, int64_t first, int64_t count, T log2e_over_temperature,
                         const T* best, const T* from, int64_t from_step, const T* total, const T* offset) {
  using V = Vec<T>;
  const V factor = V::broadcast(&log2e_over_temperature);
  alignas(64) T before[V::kLanes], after[V::kLanes], keep[V::kLanes], scale[V::kLanes];
  for (int64_t i = 0; i < count; i += V::kLanes) {
    const V old = V::load(running.shift + first + i), shift = max_of(V::load(best + i), old);
    const V source = from_step ? V::load(from + i) : V::broadcast(from);
    old.store(before);
    shift.store(after);
    exp2((old - shift) * factor).store(keep);
    exp2((source - shift) * factor).store(scale);
    shift.store(running.shift + first + i);
    const int64_t lanes = count - i < V::kLanes ? count - i : V::kLanes;
    for (int64_t k = 0; k < lanes; ++k) {
      // Without a pair, before or in this block, there is no shift, and its factor may be NaN.
      const double old_sum = running.sum[first + i + k], added = static_cast<double>(total[i + k]);
      const double kept = old_sum > 0 ? static_cast<double>(keep[k]) : 0;
      const double scaled = added > 0 ? static_cast<double>(scale[k]) : 0;
      running.sum[first + i + k] = old_sum * kept + added * scaled;
      if (!running.offset) continue;
      double moved = 0;
      if (old_sum > 0)
        moved = kept * (running.offset[first + i + k] +
                        old_sum * (static_cast<double>(before[k]) - static_cast<double>(after[k])));
      if (added > 0)
        moved += scaled * (static_cast<double>(offset[i + k]) +
                           added * (static_cast<double>(from[from_step * (i + k)]) - static_cast<double>(after[k])));
      running.offset[first + i + k] = moved;
    }
  }
}

template <bool kColumns, bool kOffsets, class T>
void logsumexp_update_of(const Block& block, const LogSumExpUpdate<T>& update, const T* scores) {
  const T c = update.log2e_over_temperature;
  BlockVectors<T> best;
  BlockTotals<T> totals;
  block_maxima<kColumns>(block, update, scores, best);
  if constexpr (!kColumns) {
    block_totals<false, false, kOffsets>(block, c, scores, best, T(0), totals);
    merge_totals(update.rows, block.row_begin, block.rows(), c, best.row, best.row, 1, totals.sum.row,
                 totals.offset.row);
    return;
  }
  ShiftRange<T> range;
  range.add(best.row, kMaxBlockRows);
  range.add(best.column, buffer_width(block));
  const T low = range.min(), high = range.max();
  const bool shared = (high - low) * c <= T(kMaxShiftSpread);  // false for infinities
  if (shared) {
    block_totals<kColumns, true, kOffsets>(block, c, scores, best, high, totals);
  } else {
    block_totals<kColumns, false, kOffsets>(block, c, scores, best, T(0), totals);
  }
  merge_totals(update.rows, block.row_begin, block.rows(), c, best.row, shared ? &high : best.row, !shared,
               totals.sum.row, totals.offset.row);
  merge_totals(update.columns, block.column_begin, block.columns(), c, best.column, shared ? &high : best.column,
               !shared, totals.sum.column, totals.offset.column);
}

template <class T>
void logsumexp_update(const PairwiseParams<T>& params, const Block& block, const LogSumExpUpdate<T>& update,
                      T* scores) {
  if (params.euclidean) similarities_of_block(params, block, scores);
  if (!update.logit.is_similarity || update.bound) {
    const VecLogit<T> logit(update.logit);
    for (int64_t i = 0; i < block.rows(); ++i)
      logits_of_row(logit, update.bound ? update.bound + block.row_begin + i : nullptr, buffer_width(block),
                    scores + i * kMaxBlockColumns);
  }
  if (update.row_positives.sum) take_positives(params, block, update, scores);
  using Function = void (*)(const Block&, const LogSumExpUpdate<T>&, const T*);
  const Function function = switch_bools(
      []<bool kColumns, bool kOffsets>() -> Function { return logsumexp_update_of<kColumns, kOffsets, T>; },
      update.columns.shift != nullptr, update.rows.offset != nullptr);
  function(block, update, scores);
}

// exp((s - shared) / t) times these numbers is the contribution of a row or column to the derivatives of its pairs.
template <class T>
inline void scale_weights(const LogSumExpAnchors<T>& anchors, int64_t first, int64_t count, T log2e_over_temperature,
                          T shared, T* scaled) {
  using V = Vec<T>;
  const V factor = V::broadcast(&log2e_over_temperature), from = V::broadcast(&shared);
  for (int64_t i = 0; i < count; i += V::kLanes)
    (V::load(anchors.weight + first + i) * exp2((from - V::load(anchors.shift + first + i)) * factor))
        .store(scaled + i);
}

// Multiplies the weights of a row with the slopes of its hyperbolic distances. Pairs that are no candidates have NaN as
// score and 0 as weight.
template <class T>
__attribute__((noinline)) void multiply_slopes(const PairwiseParams<T>& params, const Block& block, int64_t row,
                                               const T* scores, T* weights) {
  const int64_t gap = params.depth - 1, in_group = row % kMicroTileRows;
  const T row_gap = params.rows.groups[(row - in_group) * params.depth + gap * kMicroTileRows + in_group];
  for (int64_t c = 0; c < block.columns(); ++c) {
    const int64_t column = block.column_begin + c, in_panel = column % kPanel<T>;
    const T column_gap = params.columns.panels[(column - in_panel) * params.depth + gap * kPanel<T> + in_panel];
    weights[c] = weights[c] == T(0) ? T(0) : weights[c] * hyperbolic_slope(scores[c], row_gap, column_gap);
  }
}

template <bool kColumns, class T>
void logsumexp_weights_of(const PairwiseParams<T>& params, const Block& block, const LogSumExpWeights<T>& w,
                          T* scores) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const T c = w.log2e_over_temperature;
  const V factor = V::broadcast(&c);
  T shared_shift = 0;
  bool shared = false;
  BlockVectors<T> scaled;
  if constexpr (kColumns) {
    ShiftRange<T> range;
    range.add(w.rows.shift + block.row_begin, round_up(block.rows(), kPartials));
    range.add(w.columns.shift + block.column_begin, width);
    shared_shift = range.max();
    shared = (shared_shift - range.min()) * c <= T(kMaxShiftSpread);
    if (shared_shift < range.min()) shared_shift = std::numeric_limits<T>::infinity();  // no anchor: exponentials are 0
    if (shared) {
      scale_weights(w.rows, block.row_begin, round_up(block.rows(), kPartials), c, shared_shift, scaled.row);
      scale_weights(w.columns, block.column_begin, width, c, shared_shift, scaled.column);
    }
  }
  const bool looks_for_positives = w.positives || w.excludes_positives;
  const bool has_logits = !w.logit.is_similarity || w.bound;
  const VecLogit<T> logit(w.logit);
  for (int64_t i = 0; i < block.rows(); ++i) {
    T* row_scores = scores + i * kMaxBlockColumns;
    const int64_t row = block.row_begin + i;
    const ClassRun run = looks_for_positives ? class_run(params, block, row) : ClassRun{0, 0};
    alignas(64) T original[kMaxBlockColumns];
    if (params.euclidean || has_logits || run.begin < run.end)
      for (int64_t k = 0; k < width; ++k) original[k] = row_scores[k];
    if (params.hyperbolic) {
      hyperbolic_similarities(block.columns(), row_scores);
    } else if (params.euclidean) {
      for (int64_t k = 0; k < width; k += V::kLanes) similarity_of<true>(V::load(row_scores + k)).store(row_scores + k);
    }
    if (has_logits) logits_of_row(logit, w.bound ? w.bound + row : nullptr, width, row_scores);
    if (kColumns && shared) {
      const V shift = V::broadcast(&shared_shift), of_row = V::broadcast(scaled.row + i);
      for (int64_t k = 0; k < width; k += V::kLanes)
        (exp2((V::load(row_scores + k) - shift) * factor) * (of_row + V::load(scaled.column + k)))
            .store(row_scores + k);
    } else {
      const V shift = V::broadcast(w.rows.shift + row), of_row = V::broadcast(w.rows.weight + row);
      for (int64_t k = 0; k < width; k += V::kLanes) {
        const V s = V::load(row_scores + k);
        V weight = of_row * exp2((s - shift) * factor);
        if constexpr (kColumns) {
          const int64_t column = block.column_begin + k;
          weight =
              fma(V::load(w.columns.weight + column), exp2((s - V::load(w.columns.shift + column)) * factor), weight);
        }
        weight.store(row_scores + k);
      }
    }
    if (has_logits)
      for (int64_t k = 0; k < width; k += V::kLanes)
        (V::load(row_scores + k) * logit.slope(V::load(original + k))).store(row_scores + k);
    for (int64_t k = run.begin; k < run.end; ++k) {
      if (w.excludes_positives) row_scores[k] = T(0);
      if (!w.positives || original[k] != original[k]) continue;
      row_scores[k] += w.rows.positive_weight[row];
      if (params.symmetric) row_scores[k] += w.columns.positive_weight[block.column_begin + k];
    }
    if (params.hyperbolic) {
      multiply_slopes(params, block, row, original, row_scores);
    } else if (params.euclidean) {
      // s = -d, so ds / dx = (y - x) / d. At d = 0 the subgradient is 0, as for PyTorch's norm.
      const V min_square = constant<T>(std::numeric_limits<T>::min());
      for (int64_t k = 0; k < width; k += V::kLanes) {
        const V square = V::load(original + k);
        V::select(square >= min_square, V::load(row_scores + k) / sqrt(square), V::zero()).store(row_scores + k);
      }
    }
  }
  pad_weights(block, scores);
}

template <class T>
void logsumexp_weights(const PairwiseParams<T>& params, const Block& block, const LogSumExpWeights<T>& weights,
                       T* scores) {
  using Function = void (*)(const PairwiseParams<T>&, const Block&, const LogSumExpWeights<T>&, T*);
  const Function function = switch_bools([]<bool kColumns>() -> Function { return logsumexp_weights_of<kColumns, T>; },
                                         weights.columns.weight != nullptr);
  function(params, block, weights, scores);
}

HARDMINE_PROVIDE_KERNELS(LogSumExpKernels, .logsumexp_update = logsumexp_update<T>,
                         .logsumexp_weights = logsumexp_weights<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
