#include "cuda/kernels/given_triplets.h"

#include <limits>

#include "core/int_math.h"
#include "cuda/device/collectives.h"
#include "cuda/gemm/row_stats.h"

namespace hardmine::cuda {
namespace {

constexpr int kTripletThreads = 256, kTripletWarps = kTripletThreads / 32, kCheckThreads = 1024;
constexpr int64_t kMaxTripletBlocks = 1024;

// What each loss sums over triplets, and computes from the sums. kSums is the number of sums.
//
// IndexedLoss: those of add_term.
template <class acc_t>
struct IndexedSums {
  static constexpr int kSums = kTermSums;
  const IndexedLoss& loss;
  SelectedPairs<acc_t> pairs;

  __device__ __forceinline__ void add(int64_t t, double* sum, acc_t* unreduced) const {
    const TripletTerm<acc_t> term = term_of(loss.term, pairs, t);
    if (unreduced && loss.reduction == Reduction::kNone) unreduced[t] = term.value;
    add_term(term, sum);
  }

  // All threads of a block call it, with the same `sum`.
  __device__ __forceinline__ void finalize(const double* sum, bool propagate_nan, char*, acc_t* out) const {
    const acc_t nan = std::numeric_limits<acc_t>::quiet_NaN();
    if (loss.reduction == Reduction::kNone) {
      for (int64_t t = threadIdx.x; propagate_nan && t < pairs.count; t += blockDim.x) out[t] = nan;
    } else if (threadIdx.x == 0) {
      *out = propagate_nan ? nan : static_cast<acc_t>(reduced_loss(loss.term, loss.reduction, sum));
    }
  }

  __device__ __forceinline__ void backward(int64_t t, const double* sum, const acc_t* grad_loss, acc_t* d_positive,
                                           acc_t* d_negative) const {
    term_backward(difficulty_weights(loss.term, loss.reduction, sum + kTermValues), term_of(loss.term, pairs, t),
                  grad_loss[loss.reduction == Reduction::kNone ? t : 0], d_positive, d_negative);
  }
};

// GlobalRule: the distances of the positives and of the negatives.
template <class acc_t>
struct GlobalSums {
  static constexpr int kSums = 2;
  const GlobalRule& rule;
  SelectedPairs<acc_t> pairs;  // distances

  __device__ __forceinline__ void add(int64_t t, double* sum, acc_t*) const {
    sum[0] += static_cast<double>(pairs.positive_similarity[t]);
    sum[1] += static_cast<double>(pairs.negative_similarity[t]);
  }

  __device__ __forceinline__ Moments mean_of(double sum) const {
    Moments moments;
    if (pairs.count > 0) moments.mean = sum / static_cast<double>(pairs.count);
    return moments;
  }

  // Variances are computed from deviations, as in core's moments_of. All threads of a block call it, with the same
  // `sum`.
  __device__ __forceinline__ void finalize(const double* sum, bool propagate_nan, char* shared, acc_t* out) const {
    Moments p = mean_of(sum[0]), n = mean_of(sum[1]);
    double squares[2] = {0, 0};
    for (int64_t t = threadIdx.x; t < pairs.count; t += blockDim.x) {
      const double positive = static_cast<double>(pairs.positive_similarity[t]) - p.mean;
      const double negative = static_cast<double>(pairs.negative_similarity[t]) - n.mean;
      squares[0] += positive * positive;
      squares[1] += negative * negative;
    }
    __syncthreads();  // `sum` may be in `shared`
    block_reduce_sum<2>(squares, reinterpret_cast<double*>(shared));
    if (threadIdx.x != 0) return;
    const auto count = static_cast<double>(pairs.count);
    p.variance = squares[0] / count;
    n.variance = squares[1] / count;
    const acc_t value = pairs.count > 0 ? static_cast<acc_t>(global_loss_of(rule, p, n)) : acc_t(0);
    *out = propagate_nan ? std::numeric_limits<acc_t>::quiet_NaN() : value;
  }

  __device__ __forceinline__ void backward(int64_t t, const double* sum, const acc_t* grad_loss, acc_t* d_positive,
                                           acc_t* d_negative) const {
    const double loss_weight = static_cast<double>(*grad_loss) / static_cast<double>(pairs.count);
    global_term_backward(rule, mean_of(sum[0]), mean_of(sum[1]), loss_weight, pairs.positive_similarity[t],
                         pairs.negative_similarity[t], d_positive, d_negative);
  }
};

template <class acc_t>
__device__ __forceinline__ IndexedSums<acc_t> sums_of(const IndexedLoss& loss, const acc_t* positive,
                                                      const acc_t* negative, int64_t count) {
  return {loss, {nullptr, nullptr, positive, negative, count}};
}
template <class acc_t>
__device__ __forceinline__ GlobalSums<acc_t> sums_of(const GlobalRule& rule, const acc_t* positive,
                                                     const acc_t* negative, int64_t count) {
  return {rule, {nullptr, nullptr, positive, negative, count}};
}
template <class Loss, class acc_t>
using SumsOf = decltype(sums_of(Loss{}, static_cast<const acc_t*>(nullptr), static_cast<const acc_t*>(nullptr), 0));

template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kTripletThreads, 4)
    row_stats_kernel(RowStats<Scalar, acc_t> rows, int32_t* blocks_done) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *blocks_done = 0;
  compute_row_stats(rows);
}

template <class Loss, class Scalar, class acc_t>
struct TripletParams {
  PairMeasure measure;
  Loss loss;
  RowStats<Scalar, acc_t> rows;
  TripletList triplets;
  TripletLossOut<acc_t> out;
  double* partial;       // [blocks, kSums + 1]: the block's sums, and the number of its invalid triplets
  int32_t* blocks_done;  // [1], starts at 0
};

// The measures of the pairs (a, p) and (a, n), the same in every lane of the warp.
template <class Scalar, class acc_t>
__device__ __forceinline__ void measure_triplet(const PairMeasure& measure, const RowStats<Scalar, acc_t>& rows,
                                                const int64_t* triplet, acc_t* positive, acc_t* negative) {
  const Scalar *a = rows.x + triplet[0] * rows.depth, *p = rows.x + triplet[1] * rows.depth,
               *n = rows.x + triplet[2] * rows.depth;
  const bool normalized = measure.normalized, product = !is_distance(measure);
  const acc_t of_a = normalized ? rows.norm[triplet[0]] : acc_t(1),
              of_p = normalized ? rows.norm[triplet[1]] : acc_t(1),
              of_n = normalized ? rows.norm[triplet[2]] : acc_t(1);
  acc_t sum_p = 0, sum_n = 0;
  for (int64_t k = lane_index(); k < rows.depth; k += 32) {
    acc_t x = to_acc(a[k]), y = to_acc(p[k]), z = to_acc(n[k]);
    if (normalized) {
      x /= of_a;
      y /= of_p;
      z /= of_n;
    }
    if (product) {
      sum_p = fma(x, y, sum_p);
      sum_n = fma(x, z, sum_n);
    } else {
      sum_p = fma(x - y, x - y, sum_p);
      sum_n = fma(x - z, x - z, sum_n);
    }
  }
  *positive = measure_from_sum(measure, warp_reduce_sum(sum_p));
  *negative = measure_from_sum(measure, warp_reduce_sum(sum_n));
}

// One triplet per warp. The last block computes the loss from all sums.
template <class Loss, class Scalar, class acc_t>
__global__ void __launch_bounds__(kTripletThreads, 4)
    measure_triplets_kernel(TripletParams<Loss, Scalar, acc_t> params) {
  constexpr int kSums = SumsOf<Loss, acc_t>::kSums + 1;
  const auto sums = sums_of<acc_t>(params.loss, params.out.positive, params.out.negative, params.triplets.count);
  auto* shared = reinterpret_cast<double*>(shared_memory());
  double sum[kSums] = {};
  for (int64_t t = int64_t{blockIdx.x} * kTripletWarps + warp_index(); t < params.triplets.count;
       t += int64_t{gridDim.x} * kTripletWarps) {
    const int64_t* triplet = params.triplets.rows + 3 * t;
    const bool is_valid = is_triplet(triplet, params.rows.count);
    acc_t positive = std::numeric_limits<acc_t>::quiet_NaN(), negative = positive;
    if (is_valid) measure_triplet(params.measure, params.rows, triplet, &positive, &negative);
    if (lane_index() != 0) continue;
    params.out.positive[t] = kept_measure(params.loss, positive);
    params.out.negative[t] = kept_measure(params.loss, negative);
    sums.add(t, sum, params.out.loss);
    sum[kSums - 1] += !is_valid;
  }
  block_reduce_sum<kSums>(sum, shared);
  if (gridDim.x > 1) {
    if (threadIdx.x == 0)
      for (int s = 0; s < kSums; ++s) params.partial[int64_t{blockIdx.x} * kSums + s] = sum[s];
    if (!grid_is_last_block(params.blocks_done)) return;
    block_reduce_partials<kSums>(params.partial, gridDim.x, sum, shared);
  }
  if (threadIdx.x == 0)
    for (int s = 0; s < kSums; ++s) shared[s] = sum[s];
  const bool has_nonfinite = block_any_nonfinite(params.rows.finite, finite_flag_count(params.rows.count));
  sums.finalize(shared, has_nonfinite || shared[kSums - 1] > 0, shared_memory(), params.out.loss);
}

// Sums over all triplets that the gradient needs, and whether all triplets are valid. Launched with one block.
template <class Loss, class acc_t>
__global__ void __launch_bounds__(kCheckThreads, 1)
    sum_triplets_kernel(Loss loss, TripletList triplets, int64_t row_count, TripletLossGradient<acc_t> gradient,
                        double* total, int32_t* is_valid) {
  constexpr int kSums = SumsOf<Loss, acc_t>::kSums;
  const auto sums = sums_of<acc_t>(loss, gradient.positive, gradient.negative, triplets.count);
  double sum[kSums] = {};
  bool has_invalid = false;
  for (int64_t t = threadIdx.x; t < triplets.count; t += kCheckThreads) {
    has_invalid |= !is_triplet(triplets.rows + 3 * t, row_count);
    sums.add(t, sum, nullptr);
  }
  has_invalid = __syncthreads_or(has_invalid);
  block_reduce_sum<kSums>(sum, reinterpret_cast<double*>(shared_memory()));
  if (threadIdx.x != 0) return;
  for (int s = 0; s < kSums; ++s) total[s] = sum[s];
  *is_valid = !has_invalid;
}

// The pairs of all triplets, and the gradients that arrive at their measures.
template <class acc_t>
struct ListedPairs {
  int64_t* left;    // [count]
  int64_t* right;   // [count, 2]
  acc_t* gradient;  // [count, 2]
};

template <class Loss, class acc_t>
__global__ void __launch_bounds__(kTripletThreads, 4)
    list_triplet_pairs_kernel(Loss loss, TripletList triplets, TripletLossGradient<acc_t> gradient, const double* total,
                              ListedPairs<acc_t> list) {
  const auto sums = sums_of<acc_t>(loss, gradient.positive, gradient.negative, triplets.count);
  for (int64_t t = int64_t{blockIdx.x} * kTripletThreads + threadIdx.x; t < triplets.count;
       t += int64_t{gridDim.x} * kTripletThreads) {
    acc_t d_positive, d_negative;
    sums.backward(t, total, gradient.grad_loss, &d_positive, &d_negative);
    if (gradient.grad_positive) d_positive += gradient.grad_positive[t];
    if (gradient.grad_negative) d_negative += gradient.grad_negative[t];
    list.left[t] = triplets.rows[3 * t];
    list.right[2 * t] = triplets.rows[3 * t + 1];
    list.right[2 * t + 1] = triplets.rows[3 * t + 2];
    list.gradient[2 * t] = kept_measure_backward(loss, d_positive);
    list.gradient[2 * t + 1] = kept_measure_backward(loss, d_negative);
  }
}

constexpr size_t kSharedSums = 5 * kMaxWarps * sizeof(double);

}  // namespace

template <class Loss, class Scalar, class acc_t>
void loss_of_triplets(const PairMeasure& measure, const Loss& loss, const MatrixPair<Scalar>& rows,
                      const TripletList& triplets, const TripletLossOut<acc_t>& out, Workspace& workspace,
                      const Stream& stream) {
  const int64_t blocks = std::clamp<int64_t>(ceil_div(triplets.count, kTripletWarps), 1, kMaxTripletBlocks);
  const TripletParams<Loss, Scalar, acc_t> params{
      .measure = measure,
      .loss = loss,
      .rows =
          {
              .x = rows.x,
              .count = rows.count,
              .depth = rows.depth,
              .norm = measure.normalized ? workspace.array<acc_t>(rows.count) : nullptr,
              .finite = workspace.array<int32_t>(finite_flag_count(rows.count)),
              .incidence_count = nullptr,
          },
      .triplets = triplets,
      .out = out,
      .partial = workspace.array<double>(blocks * (SumsOf<Loss, acc_t>::kSums + 1)),
      .blocks_done = workspace.array<int32_t>(1),
  };
  launch("row_stats", row_stats_kernel<Scalar, acc_t>,
         {std::max<int64_t>(1, finite_flag_count(rows.count)), kTripletThreads}, stream, params.rows,
         params.blocks_done);
  launch("measure_triplets", measure_triplets_kernel<Loss, Scalar, acc_t>, {blocks, kTripletThreads, kSharedSums},
         stream, params);
}

template <class Loss, class Scalar, class acc_t>
void loss_of_triplets_gradient(const PairMeasure& measure, const Loss& loss, const MatrixPair<Scalar>& rows,
                               const TripletList& triplets, const TripletLossGradient<acc_t>& gradient, Scalar* grad_x,
                               Workspace& workspace, const Stream& stream) {
  auto* total = workspace.array<double>(SumsOf<Loss, acc_t>::kSums);
  auto* is_valid = workspace.array<int32_t>(1);
  const ListedPairs<acc_t> list{workspace.array<int64_t>(triplets.count), workspace.array<int64_t>(2 * triplets.count),
                                workspace.array<acc_t>(2 * triplets.count)};
  launch("sum_triplets", sum_triplets_kernel<Loss, acc_t>, {1, kCheckThreads, kSharedSums}, stream, loss, triplets,
         rows.count, gradient, total, is_valid);
  launch("list_triplet_pairs", list_triplet_pairs_kernel<Loss, acc_t>,
         {ceil_div(triplets.count, kTripletThreads), kTripletThreads}, stream, loss, triplets, gradient,
         static_cast<const double*>(total), list);
  const PairList<acc_t> pairs{
      .left = list.left,
      .right = list.right,
      .gradient = list.gradient,
      .count = triplets.count,
      .partners = 2,
  };
  pair_gradient(measure, rows, pairs, NonfiniteRows::kMakeGradientsNan, {grad_x, nullptr}, workspace, stream, is_valid);
}

#define HARDMINE_INSTANTIATE(Loss, Scalar, acc_t)                                                 \
  template decltype(loss_of_triplets<Loss, Scalar, acc_t>) loss_of_triplets<Loss, Scalar, acc_t>; \
  template decltype(loss_of_triplets_gradient<Loss, Scalar, acc_t>) loss_of_triplets_gradient<Loss, Scalar, acc_t>;
HARDMINE_INSTANTIATE(IndexedLoss, BFloat16, float)
HARDMINE_INSTANTIATE(IndexedLoss, Float16, float)
HARDMINE_INSTANTIATE(IndexedLoss, float, float)
HARDMINE_INSTANTIATE(IndexedLoss, double, double)
HARDMINE_INSTANTIATE(GlobalRule, BFloat16, float)
HARDMINE_INSTANTIATE(GlobalRule, Float16, float)
HARDMINE_INSTANTIATE(GlobalRule, float, float)
HARDMINE_INSTANTIATE(GlobalRule, double, double)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
