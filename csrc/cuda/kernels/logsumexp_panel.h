// The consumer of the log-sum-exps' forward pass. A block owns a panel of anchors, and visits a split of the columns.
// One thread per row keeps the running sums, and adds tile by tile in the order of the columns.
#pragma once

#include <limits>

#include "core/losses/logsumexp.h"
#include "cuda/gemm/tile_labels.h"

namespace hardmine::cuda {

// A sum of exponentials relative to the largest similarity.
template <class acc_t>
struct RunningLogSumExp {
  static constexpr acc_t kNothing = -std::numeric_limits<acc_t>::infinity();
  acc_t shift = kNothing;
  double sum = 0, offset = 0;  // as in cpu/simd/logsumexp_block_table.h

  __device__ __forceinline__ void add(const RunningLogSumExp& other, acc_t log2e_over_temperature) {
    if (other.shift == kNothing) return;
    if (shift == kNothing || other.shift > shift) {
      const RunningLogSumExp before = *this;
      *this = other;
      if (before.shift != kNothing) add_scaled(before, log2e_over_temperature);
    } else {
      add_scaled(other, log2e_over_temperature);
    }
  }

 private:
  // The other shift is no larger.
  __device__ __forceinline__ void add_scaled(const RunningLogSumExp& other, acc_t log2e_over_temperature) {
    const double factor = static_cast<double>(std::exp2((other.shift - shift) * log2e_over_temperature));
    sum += factor * other.sum;
    offset += factor * (other.offset + other.sum * (static_cast<double>(other.shift) - static_cast<double>(shift)));
  }
};

// The result of one split per anchor, [num_splits, anchors] each.
template <class acc_t>
struct LogSumExpPartials {
  RunningLogSumExp<acc_t>* running;
  double* positive_sum;  // of similarities; null: not wanted
  int64_t* positive_count;
};

template <class MmaPolicy>
struct LogSumExpParams : PairwiseOperands<MmaPolicy> {
  using acc_t = typename MmaPolicy::acc_t;
  int64_t num_splits;  // splits of the columns
  LogSumExpPairs pairs;
  PairLogit<acc_t> logit;
  const acc_t* bound;         // [rows]; null: none
  const double* temperature;  // [1]
  LogSumExpPartials<acc_t> partials;
};

template <class MmaPolicy, PairQuantity kQuantity, Ids kIds>
class LogSumExpPanel {
  using acc_t = typename MmaPolicy::acc_t;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;
  static constexpr acc_t kNothing = -std::numeric_limits<acc_t>::infinity();

 public:
  __device__ __forceinline__ LogSumExpPanel(const LogSumExpParams<MmaPolicy>& params, int64_t row_panel, int64_t split)
      : params_(params),
        labels_(shared_memory() + MmaPolicy::kSharedBytes),
        row_panel_(row_panel),
        split_(split),
        log2e_over_temperature_(static_cast<acc_t>(kLog2E / *params.temperature)) {}

  __device__ __forceinline__ void run() {
    const int64_t panels = panels_of<MmaPolicy>(params_.columns.count),
                  end = panels * (split_ + 1) / params_.num_splits;
    RunningLogSumExp<acc_t> running;
    double positive_sum = 0;
    int64_t positive_count = 0;
    for (int64_t panel = panels * split_ / params_.num_splits; panel < end; ++panel) {
      first_column_ = panel * kTile;
      const bool same_class = labels_.read(params_, row_panel_ * kTile, first_column_);
      if (same_class || params_.pairs != LogSumExpPairs::kPositive) {
        make_candidate_tile<kIds>(params_.rows, params_.columns, params_.ids, row_panel_, panel, fragment_);
        if (same_class && params_.partials.positive_sum) add_positives(positive_sum, positive_count);
        add_exponentials(running);
      }
      __syncthreads();  // before the labels and the engine's memory are reused
    }
    const int64_t row = row_panel_ * kTile + threadIdx.x, place = split_ * params_.rows.count + row;
    if (threadIdx.x >= kTile || row >= params_.rows.count) return;
    params_.partials.running[place] = running;
    if (!params_.partials.positive_sum) return;
    params_.partials.positive_sum[place] = positive_sum;
    params_.partials.positive_count[place] = positive_count;
  }

 private:
  __device__ __forceinline__ int64_t column(int c) const { return first_column_ + MmaPolicy::column(c); }

  // Where the two warps of a row meet, [2][kTile] per array. The engine's memory is free here.
  static __device__ __forceinline__ acc_t* exchange(int array) {
    return reinterpret_cast<acc_t*>(shared_memory()) + array * 2 * kTile;
  }
  static __device__ __forceinline__ acc_t& exchange_slot(int array, int r) {
    return exchange(array)[warp_index() % 2 * kTile + MmaPolicy::row(r)];
  }

  // The sum over the four lanes of a row.
  static __device__ __forceinline__ acc_t sum_of_row(acc_t value) {
    value += __shfl_xor_sync(kFullWarp, value, 1);
    return value + __shfl_xor_sync(kFullWarp, value, 2);
  }

  // The kind of a pair; neither positive nor negative if it is none.
  struct Kind {
    bool positive, negative;
  };
  __device__ __forceinline__ Kind kind_of(int r, int c, int64_t row_label) const {
    const acc_t score = fragment_.at[r][c];
    const bool is_self = params_.symmetric && row_panel_ * kTile + MmaPolicy::row(r) == column(c);
    if (column(c) >= params_.columns.count || score != score || is_self) return {false, false};  // NaN: excluded by ids
    const bool same = labels_.column[MmaPolicy::column(c)] == row_label;
    return {same, !same};
  }

  __device__ __forceinline__ acc_t logit_of(int r, acc_t similarity) const {
    const int64_t row = row_panel_ * kTile + MmaPolicy::row(r);
    if (params_.bound &&
        (row >= params_.rows.count || !(params_.logit.signed_similarity(similarity) > params_.bound[row])))
      return kNothing;
    return params_.logit.value(similarity);
  }

  __device__ __forceinline__ void add_positives(double& sum, int64_t& count) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t label = labels_.row[MmaPolicy::row(r)];
      acc_t total = 0, found = 0;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (!kind_of(r, c, label).positive) continue;
        total += similarity_from_score(kQuantity, fragment_.at[r][c]);
        found += 1;
      }
      total = sum_of_row(total);
      found = sum_of_row(found);
      if (lane_index() % 4 != 0) continue;
      exchange_slot(0, r) = total;
      exchange_slot(1, r) = found;
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
      for (int half = 0; half < 2; ++half) {
        sum += static_cast<double>(exchange(0)[half * kTile + threadIdx.x]);
        count += static_cast<int64_t>(exchange(1)[half * kTile + threadIdx.x]);
      }
    }
    __syncthreads();  // before the exchange is reused
  }

  __device__ __forceinline__ void add_exponentials(RunningLogSumExp<acc_t>& running) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t label = labels_.row[MmaPolicy::row(r)];
      acc_t shift = kNothing;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const Kind kind = kind_of(r, c, label);
        const bool counts = (kind.positive && params_.pairs != LogSumExpPairs::kNegative) ||
                            (kind.negative && params_.pairs != LogSumExpPairs::kPositive);
        acc_t& score = fragment_.at[r][c];
        score = counts ? logit_of(r, similarity_from_score(kQuantity, score)) : kNothing;
        if (score > shift) shift = score;
      }
#pragma unroll
      for (int mask = 1; mask <= 2; mask *= 2) {
        const acc_t other = __shfl_xor_sync(kFullWarp, shift, mask);
        if (other > shift) shift = other;
      }
      const acc_t from = shift == kNothing ? acc_t(0) : shift;
      acc_t sum = 0, offset = 0;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const acc_t distance = fragment_.at[r][c] - from, e = std::exp2(distance * log2e_over_temperature_);
        sum += e;
        offset += e == acc_t(0) ? acc_t(0) : e * distance;
      }
      sum = sum_of_row(sum);
      offset = sum_of_row(offset);
      if (lane_index() % 4 != 0) continue;
      exchange_slot(0, r) = shift;
      exchange_slot(1, r) = sum;
      exchange_slot(2, r) = offset;
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
      for (int half = 0; half < 2; ++half) {
        const int64_t place = half * kTile + threadIdx.x;
        RunningLogSumExp<acc_t> of_tile;
        of_tile.shift = exchange(0)[place];
        of_tile.sum = static_cast<double>(exchange(1)[place]);
        of_tile.offset = static_cast<double>(exchange(2)[place]);
        running.add(of_tile, log2e_over_temperature_);
      }
    }
  }

  const LogSumExpParams<MmaPolicy>& params_;
  const TileLabels<MmaPolicy> labels_;
  const int64_t row_panel_, split_;
  const acc_t log2e_over_temperature_;
  int64_t first_column_ = 0;
  Fragment<MmaPolicy> fragment_;
};

}  // namespace hardmine::cuda
