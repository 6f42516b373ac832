// The consumers of the tuplet losses' forward passes. A block owns a panel of anchors, and visits a split of the
// columns. One thread per row keeps the running state, and adds tile by tile in the order of the columns: the best
// positive and the sum of exponentials over negatives. If all positives count, a second pass sums softplus over them,
// once the log-sum-exps are known.
#pragma once

#include <limits>

#include "core/losses/tuplet_terms.h"
#include "cuda/device/packed_candidate.h"
#include "cuda/gemm/tile_labels.h"

namespace hardmine::cuda {

// The result of one split per anchor, [num_splits, anchors] each.
template <class acc_t>
struct LogSumExpPartials {
  PackedCandidate<acc_t>* best;  // the best positive
  acc_t* shift;                  // -infinity without a negative
  double* sum;
};
struct SoftplusPartials {
  double* value;
  double* slope;
  int64_t* count;
};

template <class MmaPolicy>
struct TupletParams : PairwiseOperands<MmaPolicy> {
  using acc_t = typename MmaPolicy::acc_t;
  int64_t num_splits;  // splits of the columns
  // Positives: the largest key, sign * score, within [start, upper].
  bool selects;
  acc_t sign, upper;
  PackedCandidate<acc_t> start;
  // Negatives: the sum of exp2((similarity - shift) log2e_over_temperature).
  bool one_shift;  // the shift is 1 for all; otherwise the largest similarity
  acc_t log2e_over_temperature;
  LogSumExpPartials<acc_t> logsumexp;
  // All positives: those with a key of at most `limit`. The log-sum-exp is shift / temperature + log_sum, [anchors]
  // each.
  acc_t limit, inverse_temperature;
  const acc_t* shift;
  const acc_t* log_sum;
  SoftplusPartials softplus;
};

template <class MmaPolicy>
constexpr size_t tuplet_shared_bytes() {
  return MmaPolicy::kSharedBytes + TileLabels<MmaPolicy>::kBytes;
}

// A sum of exponentials relative to a shift.
template <class acc_t>
struct RunningSum {
  acc_t shift;
  double sum = 0;

  // Adds a sum that is relative to another shift; -infinity: an empty sum.
  __device__ __forceinline__ void add(acc_t other_shift, double other_sum, acc_t log2e_over_temperature) {
    if (other_shift == shift) {
      sum += other_shift == -std::numeric_limits<acc_t>::infinity() ? 0 : other_sum;
    } else if (other_shift > shift) {
      sum = sum * static_cast<double>(std::exp2((shift - other_shift) * log2e_over_temperature)) + other_sum;
      shift = other_shift;
    } else {
      sum += other_sum * static_cast<double>(std::exp2((other_shift - shift) * log2e_over_temperature));
    }
  }
};

template <class MmaPolicy, Ids kIds>
class TupletPanel {
  using acc_t = typename MmaPolicy::acc_t;
  using Candidate = PackedCandidate<acc_t>;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;
  static constexpr acc_t kNothing = -std::numeric_limits<acc_t>::infinity();

 public:
  __device__ __forceinline__ TupletPanel(const TupletParams<MmaPolicy>& params, int64_t row_panel, int64_t split)
      : params_(params), labels_(shared_memory() + MmaPolicy::kSharedBytes), row_panel_(row_panel), split_(split) {}

  __device__ __forceinline__ void logsumexp() {
    Candidate best = params_.start;
    RunningSum<acc_t> running{params_.one_shift ? acc_t(1) : kNothing};
    for_each_tile([&](bool same_class) {
      make();
      if (params_.selects && same_class) select(best);
      add_exponentials(same_class, running);
    });
    if (!has_row()) return;
    params_.logsumexp.best[place()] = best;
    params_.logsumexp.shift[place()] = running.shift;
    params_.logsumexp.sum[place()] = running.sum;
  }

  __device__ __forceinline__ void softplus_sums() {
    double value = 0, slope = 0;
    int64_t count = 0;
    for_each_tile([&](bool same_class) {
      if (!same_class) return;
      make();
      add_softplus(value, slope, count);
    });
    if (!has_row()) return;
    params_.softplus.value[place()] = value;
    params_.softplus.slope[place()] = slope;
    params_.softplus.count[place()] = count;
  }

 private:
  template <class Use>
  __device__ __forceinline__ void for_each_tile(const Use& use) {
    const int64_t panels = panels_of<MmaPolicy>(params_.columns.count),
                  end = panels * (split_ + 1) / params_.num_splits;
    for (column_panel_ = panels * split_ / params_.num_splits; column_panel_ < end; ++column_panel_) {
      first_column_ = column_panel_ * kTile;
      use(labels_.read(params_, row_panel_ * kTile, first_column_));
      __syncthreads();  // before the labels and the engine's memory are reused
    }
  }
  __device__ __forceinline__ void make() {
    make_candidate_tile<kIds>(params_.rows, params_.columns, params_.ids, row_panel_, column_panel_, fragment_);
  }

  // The row whose state this thread keeps.
  __device__ __forceinline__ int64_t thread_row() const { return row_panel_ * kTile + threadIdx.x; }
  __device__ __forceinline__ bool has_row() const { return threadIdx.x < kTile && thread_row() < params_.rows.count; }
  __device__ __forceinline__ int64_t place() const { return split_ * params_.rows.count + thread_row(); }

  __device__ __forceinline__ bool is_self(int r, int64_t column) const {
    return params_.symmetric && row_panel_ * kTile + MmaPolicy::row(r) == column;
  }
  __device__ __forceinline__ int64_t column(int c) const { return first_column_ + MmaPolicy::column(c); }

  // Where the two warps of a row meet, [2][kTile] per array. The engine's memory is free here.
  template <class T>
  static __device__ __forceinline__ T* exchange(int array = 0) {
    return reinterpret_cast<T*>(shared_memory()) + array * 2 * kTile;
  }
  template <class T>
  static __device__ __forceinline__ T& exchange_slot(int array, int r) {
    return exchange<T>(array)[warp_index() % 2 * kTile + MmaPolicy::row(r)];
  }

  // The sum over the four lanes of a row.
  template <class T>
  static __device__ __forceinline__ T sum_of_row(T value) {
    value += __shfl_xor_sync(kFullWarp, value, 1);
    return value + __shfl_xor_sync(kFullWarp, value, 2);
  }

  __device__ __forceinline__ void select(Candidate& best) {
    int64_t row_label[kRows];
    acc_t row_key[kRows];
    Index row_best[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      row_label[r] = labels_.row[MmaPolicy::row(r)];
      row_key[r] = kNothing;
      row_best[r] = kBelowRange;
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (column(c) >= params_.columns.count) continue;
      const int64_t label = labels_.column[MmaPolicy::column(c)];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const acc_t key = params_.sign * fragment_.at[r][c];  // NaN is above nothing
        // Columns come in ascending order: of equal keys the first has the lowest index.
        if (label == row_label[r] && key > row_key[r] && key <= params_.upper && !is_self(r, column(c))) {
          row_key[r] = key;
          row_best[r] = static_cast<Index>(column(c));
        }
      }
    }
    Candidate of_row[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) of_row[r] = Candidate::of(row_key[r], row_best[r]);
    int place = 0;
    reduce_to_lanes<kRows, 2, 1>(of_row, &place);
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) exchange_slot<Candidate>(0, place + i) = of_row[i];
    __syncthreads();
    if (threadIdx.x < kTile) {
      for (int half = 0; half < 2; ++half) {
        const Candidate candidate = exchange<Candidate>()[half * kTile + threadIdx.x];
        if (candidate.index() >= 0 && candidate.beats(best)) best = candidate;
      }
    }
    __syncthreads();  // before the exchange is reused
  }

  // Replaces the scores by the similarities of negatives, and by -infinity elsewhere.
  __device__ __forceinline__ void keep_negatives(bool same_class) {
    const bool masks = same_class || first_column_ + kTile > params_.columns.count;
    int64_t row_label[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) row_label[r] = labels_.row[MmaPolicy::row(r)];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const bool inside = column(c) < params_.columns.count;
      const int64_t label = labels_.column[MmaPolicy::column(c)];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const acc_t similarity = similarity_from_score(MmaPolicy::kSquaredDifferences, fragment_.at[r][c]);
        const bool negative = !masks || (inside && label != row_label[r]);
        fragment_.at[r][c] = negative && similarity > kNothing ? similarity : kNothing;  // also for NaN
      }
    }
  }

  __device__ __forceinline__ void add_exponentials(bool same_class, RunningSum<acc_t>& running) {
    keep_negatives(same_class);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      acc_t shift = params_.one_shift ? acc_t(1) : kNothing;
      if (!params_.one_shift) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
          if (fragment_.at[r][c] > shift) shift = fragment_.at[r][c];
#pragma unroll
        for (int mask = 1; mask <= 2; mask *= 2) {
          const acc_t other = __shfl_xor_sync(kFullWarp, shift, mask);
          if (other > shift) shift = other;
        }
      }
      const acc_t from = shift == kNothing ? acc_t(0) : shift;
      acc_t sum = 0;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sum += std::exp2((fragment_.at[r][c] - from) * params_.log2e_over_temperature);
      sum = sum_of_row(sum);
      if (lane_index() % 4 == 0) {
        exchange_slot<acc_t>(0, r) = shift;
        exchange_slot<acc_t>(1, r) = sum;
      }
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
      for (int half = 0; half < 2; ++half) {
        const acc_t* sums = exchange<acc_t>() + half * kTile + threadIdx.x;
        running.add(sums[0], static_cast<double>(sums[2 * kTile]), params_.log2e_over_temperature);
      }
    }
  }

  __device__ __forceinline__ void add_softplus(double& value, double& slope, int64_t& count) {
    int64_t row_label[kRows];
    acc_t shift[kRows], log_sum[kRows], values[kRows], slopes[kRows];
    int found[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = row_panel_ * kTile + MmaPolicy::row(r);
      const bool inside = row < params_.rows.count;
      row_label[r] = labels_.row[MmaPolicy::row(r)];
      shift[r] = inside ? params_.shift[row] : acc_t(0);
      log_sum[r] = inside ? params_.log_sum[row] : acc_t(0);
      values[r] = slopes[r] = 0;
      found[r] = 0;
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (column(c) >= params_.columns.count) continue;
      const int64_t label = labels_.column[MmaPolicy::column(c)];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const acc_t score = fragment_.at[r][c];
        // NaN is never selected.
        if (label != row_label[r] || !(key_from_score(MmaPolicy::kSquaredDifferences, score) <= params_.limit) ||
            is_self(r, column(c)))
          continue;
        const acc_t x = fma(shift[r] - similarity_from_score(MmaPolicy::kSquaredDifferences, score),
                            params_.inverse_temperature, log_sum[r]);
        values[r] += hardmine::softplus(x);
        slopes[r] += hardmine::sigmoid(x);
        ++found[r];
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      values[r] = sum_of_row(values[r]);
      slopes[r] = sum_of_row(slopes[r]);
      found[r] = sum_of_row(found[r]);
      if (lane_index() % 4 != 0) continue;
      exchange_slot<acc_t>(0, r) = values[r];
      exchange_slot<acc_t>(1, r) = slopes[r];
      exchange_slot<acc_t>(2, r) = static_cast<acc_t>(found[r]);
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
      for (int half = 0; half < 2; ++half) {
        const acc_t* sums = exchange<acc_t>() + half * kTile + threadIdx.x;
        value += static_cast<double>(sums[0]);
        slope += static_cast<double>(sums[2 * kTile]);
        count += static_cast<int64_t>(sums[4 * kTile]);
      }
    }
  }

  const TupletParams<MmaPolicy>& params_;
  const TileLabels<MmaPolicy> labels_;
  const int64_t row_panel_, split_;
  int64_t column_panel_ = 0, first_column_ = 0;
  Fragment<MmaPolicy> fragment_;
};

}  // namespace hardmine::cuda
