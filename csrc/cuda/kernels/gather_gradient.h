// Each block gathers the gradient of one row at a time.
//
// A pair of rows x, y with gradient w at its measure adds to the gradient of x:
//   inner product: w y
//   negative distance: (w / d) (y - x), d = |y - x|; nothing at d = 0, where PyTorch's norm has the subgradient 0
//   negative squared distance: 2 w (y - x)
//   negative hyperbolic distance: w slope (y - x), of core/hyperbolic.h, which leaves the rest to the caller
// All are symmetric in x and y, so both endpoints of a pair are treated alike. For normalized rows, x and y stand for
// x / |x| and y / |y|, and the sum is projected through x / |x|.
#pragma once

#include <limits>

#include "cuda/gemm/row_stats.h"
#include "cuda/kernels/pair_incidence.h"

namespace hardmine::cuda {

inline constexpr int kGatherThreads = 128;
inline constexpr int kGatherColumns = 8;                              // per thread
inline constexpr int kGatherDepth = kGatherThreads * kGatherColumns;  // per block
inline constexpr int kGatherList = 512;                               // contributions that are listed at a time

template <class Scalar, class acc_t>
struct GatherOperand {
  const Scalar* x;    // [count, depth]
  const acc_t* norm;  // [count], clamped from below; null: not normalized
  int64_t count;
};

template <class Scalar, class acc_t>
struct GatherParams {
  PairMeasure measure;
  PairEndpoints<acc_t> endpoints;
  GatherOperand<Scalar, acc_t> rows, left, right;
  PairRoles roles;          // of `rows`
  RowToPairs row_to_pairs;  // without the left endpoints of implicit entries, which are known
  int64_t depth;
  FiniteFlags<3> finite;  // all gradients are NaN if a flag is 0
  Scalar* grad;           // [count, depth]
};

template <class acc_t>
struct GatherShared {
  double sum[kMaxWarps];
  const void* partner[kGatherList];
  acc_t weight[kGatherList], norm[kGatherList];
  int64_t endpoint[kGatherList];
  int warp_count[kMaxWarps];
};

// kHyperbolic: whether the measure is. Other kernels would spill registers for its slope.
template <class Scalar, class acc_t, bool kHyperbolic>
class GatherRow {
 public:
  __device__ __forceinline__ GatherRow(const GatherParams<Scalar, acc_t>& params, int64_t row)
      : params_(params),
        shared_(*reinterpret_cast<GatherShared<acc_t>*>(shared_memory())),
        row_(row),
        self_(params.rows.x + row * params.depth),
        norm_(params.rows.norm ? params.rows.norm[row] : acc_t(1)) {}

  __device__ __forceinline__ void run(bool propagate_nan) {
    Scalar* grad = params_.grad + row_ * params_.depth;
    const int64_t depth = params_.depth;
    if (propagate_nan) {
      for (int64_t k = threadIdx.x; k < depth; k += kGatherThreads)
        grad[k] = from_acc<Scalar>(std::numeric_limits<acc_t>::quiet_NaN());
      return;
    }
    const bool projects = params_.measure.normalized;
    if (projects && !has_direction(norm_)) {
      for (int64_t k = threadIdx.x; k < depth; k += kGatherThreads) grad[k] = from_acc<Scalar>(acc_t(0));
      return;
    }
    // The projection needs the complete row sum, so rows deeper than kGatherDepth are summed twice: once for the radial
    // component, once to write.
    const int passes = projects && depth > kGatherDepth ? 2 : 1;
    acc_t radial = 0;
    for (int pass = 0; pass < passes; ++pass) {
      for (first_depth_ = 0; first_depth_ < depth; first_depth_ += kGatherDepth) {
        add_up();
        if (projects && pass == 0) radial += radial_component();
        if (pass == passes - 1) write(grad, radial);
      }
    }
  }

 private:
  __device__ __forceinline__ int64_t depth_of(int i) const { return first_depth_ + i * kGatherThreads + threadIdx.x; }

  // The inner product of the unit row with the sum, over the current depths.
  __device__ __forceinline__ acc_t radial_component() {
    acc_t dot[1] = {0};
    if (any_) {
#pragma unroll
      for (int i = 0; i < kGatherColumns; ++i)
        if (depth_of(i) < params_.depth) dot[0] += sum_[i] * (to_acc(self_[depth_of(i)]) / norm_);
    }
    block_all_reduce_sum<1>(dot, reinterpret_cast<acc_t*>(shared_.sum));
    return dot[0];
  }

  __device__ __forceinline__ void write(Scalar* grad, acc_t radial) const {
#pragma unroll
    for (int i = 0; i < kGatherColumns; ++i) {
      const int64_t k = depth_of(i);
      if (k >= params_.depth) continue;
      acc_t value = sum_[i];
      // A row without pairs has gradient 0, even if it is not finite.
      if (any_ && params_.measure.normalized) value = projected(value, to_acc(self_[k]) / norm_, radial, norm_);
      grad[k] = from_acc<Scalar>(value);
    }
  }

  // A row's endpoints come from up to three ranges, in ascending order: the pairs of its own entry; then the left
  // and the right rows of all pairs, if the row scans all pairs, or else its segment of row_to_pairs.
  struct Range {
    int64_t begin, end;
  };
  __device__ __forceinline__ Range range(int stage, bool sorted) const {
    const PairEndpoints<acc_t>& endpoints = params_.endpoints;
    const int64_t pairs = endpoints.pair_count(), partners = endpoints.pairs.partners;
    const bool entries = endpoints.pairs.left == nullptr;  // entry e belongs to row e
    if (stage == 0) {
      if (!params_.roles.left || !entries || row_ >= endpoints.pairs.count) return {0, 0};
      return {row_ * partners, (row_ + 1) * partners};
    }
    if (sorted) return {0, 0};
    if (stage == 1) return params_.roles.left && !entries ? Range{0, pairs} : Range{0, 0};
    return params_.roles.right ? Range{pairs, 2 * pairs} : Range{0, 0};
  }

  // Sums the contributions to the current depths.
  __device__ __forceinline__ void add_up() {
#pragma unroll
    for (int i = 0; i < kGatherColumns; ++i) sum_[i] = 0;
    any_ = false;
    listed_ = 0;
    const int64_t* begin = params_.row_to_pairs.begin;
    const int64_t indexed = begin ? begin[row_ + 1] - begin[row_] : 0;
    const bool sorted = begin && indexed <= kGatherList;  // longer segments are too long to sort
    bool takes_index = sorted && indexed > 0;
    int stage = 0;
    Range now = range(0, sorted);
    for (;;) {
      while (stage < 3 && listed_ + kGatherThreads <= kGatherList) {
        if (now.begin < now.end) {
          list_some(now);
          now.begin += kGatherThreads;
        } else if (++stage < 3) {
          now = range(stage, sorted);
        }
      }
      if (stage == 3 && listed_ == 0 && takes_index) {
        list_sorted(params_.row_to_pairs.endpoint + begin[row_], static_cast<int>(indexed));
        takes_index = false;
      }
      if (listed_ == 0) return;
      add_listed();
    }
  }

  // Lists a segment of row_to_pairs in ascending order.
  __device__ __forceinline__ void list_sorted(const int64_t* endpoint, int count) {
    for (int i = threadIdx.x; i < count; i += kGatherThreads) shared_.endpoint[i] = endpoint[i];
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += kGatherThreads) {
      const int64_t endpoint_id = shared_.endpoint[i];
      int rank = 0;
      for (int partner = 0; partner < count; ++partner) rank += shared_.endpoint[partner] < endpoint_id;
      list(rank, endpoint_id);
    }
    listed_ = count;
    any_ = true;
  }

  // Lists those of the next endpoints of a range, one per thread, that belong to this row.
  __device__ __forceinline__ void list_some(const Range& range) {
    const PairEndpoints<acc_t>& endpoints = params_.endpoints;
    const int64_t pairs = endpoints.pair_count();
    const int64_t id = range.begin + threadIdx.x, pair = id < pairs ? id : id - pairs;
    const bool here = id < range.end && (id < pairs ? endpoints.left_of(pair) : endpoints.right_of(pair)) == row_ &&
                      endpoints.has(pair);
    int found;
    const int rank = block_compact(here, kGatherThreads / 32, shared_.warp_count, &found);
    if (here) list(listed_ + rank, id);
    listed_ += found;
    any_ |= found > 0;
    __syncthreads();
  }

  __device__ __forceinline__ void list(int place, int64_t id) {
    const PairEndpoints<acc_t>& endpoints = params_.endpoints;
    const int64_t pairs = endpoints.pair_count(), pair = id < pairs ? id : id - pairs;
    const bool self_is_left = id < pairs;
    const int64_t partner = self_is_left ? endpoints.right_of(pair) : endpoints.left_of(pair);
    const GatherOperand<Scalar, acc_t>& partners = self_is_left ? params_.right : params_.left;
    shared_.partner[place] = partners.x + partner * params_.depth;
    shared_.norm[place] = partners.norm ? partners.norm[partner] : acc_t(1);
    shared_.weight[place] = endpoints.pairs.gradient[pair];
  }

  // Adds the listed contributions in order, and clears the list.
  __device__ __forceinline__ void add_listed() {
    __syncthreads();
    const bool inner_product = !kHyperbolic && !is_distance(params_.measure);
    for (int i = warp_index(); i < listed_; i += kGatherThreads / 32) {
      const Scalar* partner = static_cast<const Scalar*>(shared_.partner[i]);
      acc_t weight = shared_.weight[i];
      const acc_t norm = shared_.norm[i];
      if constexpr (kHyperbolic) {
        const int64_t gap = params_.depth - 1;
        const acc_t gap_x = to_acc(self_[gap]), gap_y = to_acc(partner[gap]);
        const acc_t score = hyperbolic_score(squared_distance(partner, norm, gap), gap_x, gap_y);
        weight *= hyperbolic_slope(score, gap_x, gap_y);
      } else if (inner_product) {
        weight /= norm;
      } else if (params_.measure.quantity == PairQuantity::kNegativeDistance) {
        const acc_t distance = std::sqrt(squared_distance(partner, norm, params_.depth));
        weight = distance == acc_t(0) ? acc_t(0) : weight / distance;
      } else {
        weight *= 2;
      }
      if (lane_index() == 0) shared_.weight[i] = weight;
    }
    __syncthreads();
    for (int i = 0; i < listed_; ++i) {
      const Scalar* partner = static_cast<const Scalar*>(shared_.partner[i]);
      const acc_t weight = shared_.weight[i], norm = shared_.norm[i];
#pragma unroll
      for (int c = 0; c < kGatherColumns; ++c) {
        const int64_t k = depth_of(c);
        if (k >= params_.depth) continue;
        acc_t y = to_acc(partner[k]);
        if (!inner_product) y = params_.measure.normalized ? y / norm - to_acc(self_[k]) / norm_ : y - to_acc(self_[k]);
        // Equal rows have no direction between them, even if they are not finite.
        if (inner_product || weight != acc_t(0)) sum_[c] = fma(weight, y, sum_[c]);
      }
    }
    listed_ = 0;  // safe without a barrier: list_some() and list_sorted() synchronize before they write
  }

  // Over the first `depth` elements. Called by all lanes of a warp.
  __device__ __forceinline__ acc_t squared_distance(const Scalar* partner, acc_t norm, int64_t depth) const {
    acc_t sum = 0;
    for (int64_t k = lane_index(); k < depth; k += 32) {
      const acc_t x = to_acc(self_[k]), y = to_acc(partner[k]);
      const acc_t difference = params_.measure.normalized ? y / norm - x / norm_ : y - x;
      sum = fma(difference, difference, sum);
    }
    return warp_reduce_sum(sum);
  }

  const GatherParams<Scalar, acc_t>& params_;
  GatherShared<acc_t>& shared_;
  const int64_t row_;
  const Scalar* self_;  // [depth]
  const acc_t norm_;
  int64_t first_depth_ = 0;
  acc_t sum_[kGatherColumns];
  bool any_ = false;
  int listed_ = 0;
};

}  // namespace hardmine::cuda
