// One anchor per block at a time: from the values of its pairs to those of its triplets, and to the weights of its
// pairs in the gradient.
//
// A pair's value v is half its negative squared distance, or half its negative distance, plus a constant that all pairs
// of the anchor share. A triplet's value is v_an - v_ap + margin / 2. The positives are sorted by v, so those that form
// active triplets with a negative come first. They are processed in chunks that fit into shared memory.
#pragma once

#include <limits>

#include "core/int_math.h"
#include "core/views.h"
#include "cuda/device/collectives.h"
#include "cuda/device/warp_sort.h"
#include "cuda/kernels/batch_all_triplet_loss.h"

namespace hardmine::cuda {

inline constexpr int kAnchorThreads = 256;  // the most; otherwise one per column, in whole warps

template <class acc_t>
struct AnchorParams {
  const int64_t* label;         // per anchor
  const int64_t* id;            // per anchor; null: none has an id
  const int64_t* column_label;  // [columns]
  const int64_t* column_id;     // [columns]; null: none has an id
  bool symmetric;               // the columns are the anchors
  int64_t columns;
  int64_t first_row, rows;  // anchor i of the strip is row first_row + i
  bool squared;
  double half_margin;
  MarginTable<acc_t> table;
  const int64_t* column_table_row;  // [columns]; null without a table
  int positives;                    // per chunk, a power of two
  acc_t* pairs;                     // [rows, columns]: v, replaced by weights
  int32_t* actives;  // [rows, columns]: per negative, its active triplets in earlier chunks; null with a single chunk
  bool need_weights;
  // Sums per anchor.
  double* value;
  int64_t *active, *total;
  double* weight;               // the sum of the anchor's pair weights is added
  int32_t* margins_are_finite;  // per anchor; null without a table
};

HARDMINE_HD int anchor_threads(int64_t columns) {
  return columns < kAnchorThreads ? static_cast<int>(round_up(columns, 32)) : kAnchorThreads;
}

template <class acc_t>
struct AnchorShared {
  double exchange[2 * kMaxWarps];
  int64_t counts[kMaxWarps];
  int32_t warp_count[kMaxWarps];
};

template <class acc_t>
HARDMINE_HD size_t anchor_shared_bytes(int positives) {
  return sizeof(AnchorShared<acc_t>) + positives * (sizeof(PackedCandidate<acc_t>) + sizeof(double) + sizeof(int32_t)) +
         sizeof(double);
}

template <class acc_t>
class Anchor {
  using Positive = PackedCandidate<acc_t>;  // the key is -v

 public:
  __device__ __forceinline__ Anchor(const AnchorParams<acc_t>& params, int64_t place)
      : params_(params),
        shared_(*reinterpret_cast<AnchorShared<acc_t>*>(shared_memory())),
        sum_before_(reinterpret_cast<double*>(shared_memory() + sizeof(AnchorShared<acc_t>))),
        list_(reinterpret_cast<Positive*>(sum_before_ + params.positives + 1)),
        active_(reinterpret_cast<int32_t*>(list_ + params.positives)),
        row_(params.first_row + place),
        label_(params.label[row_]),
        pairs_(params.pairs + place * params.columns),
        actives_(params.actives ? params.actives + place * params.columns : nullptr) {}

  __device__ __forceinline__ void run() {
    count_candidates();
    if (params_.table.margin) check_margins();
    if (positives_ == 0 || negatives_ == 0) {
      if (params_.need_weights)
        for (int64_t c = threadIdx.x; c < params_.columns; c += blockDim.x) pairs_[c] = 0;
    } else {
      for (first_ = 0; first_ < positives_; first_ += size_) {
        size_ = static_cast<int>(positives_ - first_ < params_.positives ? positives_ - first_ : params_.positives);
        list_positives();
        visit_negatives();
        visit_positives();
      }
      if (params_.need_weights && params_.symmetric && threadIdx.x == 0) pairs_[row_] = 0;
    }
    double sums[2] = {value_, weight_};
    block_reduce_sum<2>(sums, shared_.exchange);
    int64_t actives[1] = {active_triplets_};
    block_reduce_sum<1>(actives, shared_.counts);
    if (threadIdx.x != 0) return;
    params_.value[row_] = sums[0];
    params_.weight[row_] += sums[1];
    params_.active[row_] = actives[0];
    params_.total[row_] = int64_t{positives_} * negatives_;
  }

 private:
  __device__ __forceinline__ bool same_class(int64_t column) const { return params_.column_label[column] == label_; }
  __device__ __forceinline__ bool same_id(int64_t column) const {
    return params_.id && ids_exclude(params_.id[row_], params_.column_id[column]);
  }
  __device__ __forceinline__ bool is_self(int64_t column) const { return params_.symmetric && column == row_; }
  __device__ __forceinline__ bool is_positive(int64_t column) const {
    return !is_self(column) && same_class(column) && !same_id(column);
  }
  __device__ __forceinline__ bool is_negative(int64_t column) const { return !same_class(column) && !same_id(column); }

  // Calls use(column, rank) for the wanted ones of this warp's chunk of the columns; rank counts all wanted ones
  // before. All lanes of the warp call it.
  template <class Wanted, class Use>
  __device__ __forceinline__ int32_t for_columns(const Wanted& wanted, int32_t place, const Use& use) const {
    const int64_t chunk = ceil_div(params_.columns, blockDim.x) * 32;
    const int64_t begin = warp_index() * chunk, end = begin + chunk < params_.columns ? begin + chunk : params_.columns;
    for (int64_t first = begin; first < end; first += 32) {
      const int64_t column = first + lane_index();
      const bool here = column < end && wanted(column);
      int found;
      const int rank = warp_compact(here, &found);
      if (here) use(column, place + rank);
      place += found;
    }
    return place;
  }

  // Counts the wanted columns: all of them, and those of the warps before. All threads of the block call it.
  template <class Wanted>
  __device__ __forceinline__ void count(const Wanted& wanted, int32_t& all, int32_t& before) {
    const int32_t found = for_columns(wanted, 0, [](int64_t, int32_t) {});
    before = block_exclusive_sum_of_warps(found, 0, warps_per_block(), shared_.warp_count, &all);
    __syncthreads();  // before the next counts
  }

  __device__ __forceinline__ void count_candidates() {
    count([&](int64_t c) { return is_positive(c); }, positives_, first_of_warp_);
    negatives_ = static_cast<int32_t>(params_.columns - (params_.symmetric ? 1 : 0) - positives_);
    if (!params_.id) return;
    int32_t before;
    count([&](int64_t c) { return is_negative(c); }, negatives_, before);
    if (!params_.need_weights) return;
    for (int64_t c = threadIdx.x; c < params_.columns; c += blockDim.x)
      if (same_id(c)) pairs_[c] = 0;  // nothing else reads or writes these
  }

  __device__ __forceinline__ bool is_row(int64_t row) const { return row >= 0 && row < params_.table.rows; }
  // NaN for a class without a row in the table.
  __device__ __forceinline__ acc_t margin(int64_t negative) const {
    const int64_t row = params_.table.row[row_], column = params_.column_table_row[negative];
    if (!is_row(row) || !is_row(column)) return std::numeric_limits<acc_t>::quiet_NaN();
    return params_.table.margin[row * params_.table.rows + column];
  }

  __device__ __forceinline__ void check_margins() {
    bool has_nonfinite_margin = false;
    for (int64_t c = threadIdx.x; c < params_.columns; c += blockDim.x) has_nonfinite_margin |= !is_finite(margin(c));
    has_nonfinite_margin = __syncthreads_or(has_nonfinite_margin);
    if (threadIdx.x == 0) params_.margins_are_finite[row_] = !has_nonfinite_margin;
  }

  // Lists the positives from `first_` on in ascending order of v, and their prefix sums.
  __device__ __forceinline__ void list_positives() {
    const auto wanted = [&](int64_t column) { return is_positive(column); };
    for_columns(wanted, first_of_warp_, [&](int64_t column, int32_t place) {
      if (place < first_ || place >= first_ + size_) return;
      const acc_t v = pairs_[column];
      list_[place - first_] =
          Positive::of(v == v ? -v : -std::numeric_limits<acc_t>::max(), static_cast<Index>(column));
    });
    for (int i = threadIdx.x; i < size_; i += blockDim.x) active_[i] = 0;
    __syncthreads();
    if (warp_index() == 0) {
      warp_bitonic_sort(list_, size_);
      scan<double>([&](int r) { return static_cast<double>(-list_[r].key()); },
                   [&](int r, double sum) { sum_before_[r + 1] = sum; });
      if (lane_index() == 0) sum_before_[0] = 0;
    }
    __syncthreads();
  }

  // Calls put(r, get(0) + ... + get(r)), in a fixed order of addition. All lanes of a warp call it.
  template <class Sum, class Get, class Put>
  __device__ __forceinline__ void scan(const Get& get, const Put& put) const {
    const int chunk = ceil_div(size_, 32), begin = lane_index() * chunk,
              end = begin + chunk < size_ ? begin + chunk : size_;
    Sum chunk_sum = 0;
    for (int r = begin; r < end; ++r) chunk_sum += get(r);
    Sum before = __shfl_up_sync(kFullWarp, warp_inclusive_sum(chunk_sum), 1);
    if (lane_index() == 0) before = 0;
    for (int r = begin; r < end; ++r) put(r, before += get(r));
  }

  __device__ __forceinline__ acc_t weight_of(int32_t triplets, acc_t v) const {
    const auto weight = static_cast<acc_t>(triplets);
    return params_.squared ? weight : batch_all_distance_weight(weight, v);
  }

  // The number of listed positives below x; 0 for NaN.
  __device__ __forceinline__ int positives_below(acc_t x) const {
    return partition_point(0, size_, [&](int p) { return -list_[p].key() < x; });
  }

  __device__ __forceinline__ void visit_negatives() {
    const bool last = first_ + size_ == positives_;
    int32_t with_all =
        0;  // negatives below which all positives lie, counted here because they would all add to one counter
    for (int64_t c = threadIdx.x; c < params_.columns; c += blockDim.x) {
      if (!is_negative(c)) continue;
      // Whether a triplet is active is decided in acc_t. The sum takes v_an - v_ap and half the margin separately:
      // rounded to the magnitude of v, the margin would bias every triplet alike.
      const acc_t v = pairs_[c];
      const double half_margin = params_.table.margin ? 0.5 * static_cast<double>(margin(c)) : params_.half_margin;
      const int below = positives_below(v + static_cast<acc_t>(half_margin));
      if (below > 0) {
        value_ += static_cast<double>(below) * static_cast<double>(v) - sum_before_[below];
        value_ += static_cast<double>(below) * half_margin;
        active_triplets_ += below;
        if (below == size_) {
          ++with_all;
        } else {
          atomicAdd(active_ + below - 1, 1);
        }
      }
      if (!params_.need_weights) continue;
      const int32_t triplets = below + (first_ > 0 ? actives_[c] : 0);
      if (last) {
        const acc_t weight = weight_of(triplets, v);
        pairs_[c] = weight;
        weight_ += static_cast<double>(weight);
      } else {
        actives_[c] = triplets;
      }
    }
    if (with_all > 0) atomicAdd(active_ + size_ - 1, with_all);
    __syncthreads();
  }

  __device__ __forceinline__ void visit_positives() {
    if (params_.need_weights) {
      // The active triplets of a positive: those of all negatives that lie above it.
      if (warp_index() == 0)
        scan<int32_t>([&](int r) { return active_[size_ - 1 - r]; },
                      [&](int r, int32_t triplets) {
                        const int rank = size_ - 1 - r;
                        const acc_t weight = weight_of(-triplets, -list_[rank].key());
                        pairs_[list_[rank].index()] = weight;
                        weight_ += static_cast<double>(weight);
                      });
    }
    __syncthreads();  // before the next chunk's list
  }

  const AnchorParams<acc_t>& params_;
  AnchorShared<acc_t>& shared_;
  double* sum_before_;  // [positives + 1]
  Positive* list_;
  int32_t* active_;  // [positives]: at i, the negatives with i + 1 listed positives below them
  const int64_t row_, label_;
  acc_t* pairs_;      // [columns]
  int32_t* actives_;  // [columns]; null with a single chunk
  int32_t positives_ = 0, negatives_ = 0, first_of_warp_ = 0;
  int64_t first_ = 0;
  int size_ = 0;
  double value_ = 0, weight_ = 0;
  int64_t active_triplets_ = 0;
};

}  // namespace hardmine::cuda
