#include "cuda/kernels/pair_gradient.h"

#include <optional>

#include "core/int_math.h"
#include "cuda/gemm/row_stats.h"
#include "cuda/kernels/gather_gradient.h"

namespace hardmine::cuda {
namespace {

constexpr int kListThreads = 256, kScanThreads = 1024, kScanRows = 8, kCountChunks = 256;

// The pairs of a triplet loss, as a list with one positive and one negative per anchor.
template <class acc_t>
struct LossPairs {
  LossGradient<acc_t> loss;
  const int64_t* counted;  // [kCountChunks, kTermCounts]: easy and hard terms per chunk; null: each block counts all
  int64_t* right;          // [count, 2]
  acc_t* gradient;         // [count, 2]
};

// This thread's count of easy and of hard terms.
template <class acc_t>
__device__ __forceinline__ void count_difficulties(const LossGradient<acc_t>& loss, int64_t begin, int64_t step,
                                                   double* counts) {
  for (int64_t i = begin; i < loss.pairs.count; i += step)
    count_term(term_of(loss.term, loss.pairs, i).difficulty, counts);
}

template <class acc_t>
__global__ void __launch_bounds__(kListThreads, 2)
    count_difficulties_kernel(LossGradient<acc_t> loss, int64_t* counted) {
  for (int64_t chunk = blockIdx.x; chunk < kCountChunks; chunk += gridDim.x) {
    double counts[kTermCounts] = {};
    count_difficulties(loss, chunk * blockDim.x + threadIdx.x, kCountChunks * blockDim.x, counts);
    block_reduce_sum<kTermCounts>(counts, reinterpret_cast<double*>(shared_memory()));
    if (threadIdx.x != 0) continue;
    for (int s = 0; s < kTermCounts; ++s) counted[kTermCounts * chunk + s] = static_cast<int64_t>(counts[s]);
  }
}

template <class acc_t>
__device__ __forceinline__ void list_loss_pairs(const LossPairs<acc_t>& list, double* shared) {
  const LossGradient<acc_t>& loss = list.loss;
  double counts[kTermCounts] = {};
  if (loss.grad_loss && loss.reduction == Reduction::kMean) {
    if (list.counted) {
      for (int64_t chunk = threadIdx.x; chunk < kCountChunks; chunk += blockDim.x)
        for (int s = 0; s < kTermCounts; ++s) counts[s] += static_cast<double>(list.counted[kTermCounts * chunk + s]);
    } else {
      count_difficulties(loss, threadIdx.x, blockDim.x, counts);
    }
    block_all_reduce_sum<kTermCounts>(counts, shared);
  }
  const DifficultyWeights weights = difficulty_weights(loss.term, loss.reduction, counts);
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < loss.pairs.count;
       i += int64_t{gridDim.x} * blockDim.x) {
    acc_t d_positive = 0, d_negative = 0;
    if (loss.grad_loss)
      term_backward(weights, term_of(loss.term, loss.pairs, i),
                    loss.grad_loss[loss.reduction == Reduction::kNone ? i : 0], &d_positive, &d_negative);
    if (loss.grad_positive) d_positive += loss.grad_positive[i];
    if (loss.grad_negative) d_negative += loss.grad_negative[i];
    list.right[2 * i] = loss.pairs.positive_index[i];
    list.right[2 * i + 1] = loss.pairs.negative_index[i];
    list.gradient[2 * i] = d_positive;
    list.gradient[2 * i + 1] = d_negative;
  }
}

template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kGatherThreads, 4)
    measure_pairs_kernel(RowStats<Scalar, acc_t> rows, RowStats<Scalar, acc_t> refs, bool has_loss,
                         LossPairs<acc_t> list) {
  if (has_loss) list_loss_pairs(list, reinterpret_cast<double*>(shared_memory()));
  compute_row_stats(rows);
  compute_row_stats(refs);
}

// Calls use(row, endpoint) for every endpoint of row_to_pairs.
template <class acc_t, class Use>
__device__ __forceinline__ void for_each_endpoint(const PairEndpoints<acc_t>& endpoints, PairRoles roles,
                                                  const Use& use) {
  const int64_t pairs = endpoints.pair_count();
  for (int64_t p = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; p < pairs; p += int64_t{gridDim.x} * blockDim.x) {
    if (!endpoints.has(p)) continue;
    if (roles.left) use(endpoints.left_of(p), p);
    if (roles.right) use(endpoints.right_of(p), pairs + p);
  }
}

template <class acc_t>
__global__ void __launch_bounds__(kListThreads, 4)
    count_incidences_kernel(PairEndpoints<acc_t> endpoints, PairRoles roles, int64_t* count) {
  for_each_endpoint(endpoints, roles, [&](int64_t row, int64_t) { atomic_add(count + row, 1); });
}

// begin[r] = count[0] + ... + count[r - 1], and count[r] = 0. Launched with one block.
__global__ void __launch_bounds__(kScanThreads, 1)
    scan_incidences_kernel(int64_t* count, int64_t rows, int64_t* begin) {
  auto* warp_sum = reinterpret_cast<int64_t*>(shared_memory());  // [kMaxWarps]
  int64_t before = 0;
  for (int64_t first = 0; first <= rows; first += kScanThreads * kScanRows) {
    const int64_t thread_first = first + threadIdx.x * kScanRows;
    int64_t counts[kScanRows], sum = 0;
#pragma unroll
    for (int i = 0; i < kScanRows; ++i) {
      counts[i] = thread_first + i < rows ? count[thread_first + i] : 0;
      sum += counts[i];
    }
    int64_t total;
    int64_t place = before + block_exclusive_sum(sum, kScanThreads / 32, warp_sum, &total);
    before += total;
#pragma unroll
    for (int i = 0; i < kScanRows; ++i) {
      if (thread_first + i <= rows) begin[thread_first + i] = place;
      if (thread_first + i < rows) count[thread_first + i] = 0;
      place += counts[i];
    }
    __syncthreads();
  }
}

template <class acc_t>
__global__ void __launch_bounds__(kListThreads, 4)
    fill_row_to_pairs_kernel(PairEndpoints<acc_t> endpoints, PairRoles roles, const int64_t* begin, int64_t* count,
                             int64_t* endpoint) {
  for_each_endpoint(endpoints, roles,
                    [&](int64_t row, int64_t id) { endpoint[begin[row] + atomic_add(count + row, 1)] = id; });
}

// Reduces all flags to one.
__global__ void __launch_bounds__(kScanThreads, 1)
    all_finite_kernel(const int32_t* finite, int64_t groups, const int32_t* ref_finite, int64_t ref_groups,
                      const int32_t* is_valid, int32_t* all) {
  bool has_nonfinite = block_any_nonfinite(finite, groups);
  has_nonfinite |= block_any_nonfinite(ref_finite, ref_groups);
  if (threadIdx.x == 0) *all = !has_nonfinite && (!is_valid || *is_valid != 0);
}

template <class Scalar, class acc_t, bool kHyperbolic>
__global__ void __launch_bounds__(kGatherThreads, 4) gather_gradient_kernel(GatherParams<Scalar, acc_t> params) {
  const bool propagate_nan = params.finite.block_any_nonfinite();
  for (int64_t row = blockIdx.x; row < params.rows.count; row += gridDim.x)
    GatherRow<Scalar, acc_t, kHyperbolic>(params, row).run(propagate_nan);
}

template <class Scalar, class acc_t>
class PairGradient {
 public:
  PairGradient(const PairMeasure& measure, const MatrixPair<Scalar>& rows, NonfiniteRows nonfinite,
               const GradientOut<Scalar>& out, Workspace& workspace, const Stream& stream,
               const int32_t* is_valid = nullptr)
      : measure_(measure),
        rows_(rows),
        propagates_nan_(nonfinite == NonfiniteRows::kMakeGradientsNan),
        is_valid_(is_valid),
        out_(out),
        workspace_(workspace),
        stream_(stream) {}

  void run(PairList<acc_t> pairs, const LossGradient<acc_t>* loss) {
    LossPairs<acc_t> list{};
    if (loss) {
      list.loss = *loss;
      list.right = workspace_.array<int64_t>(2 * loss->pairs.count);
      list.gradient = workspace_.array<acc_t>(2 * loss->pairs.count);
      pairs = {loss->left, list.right, list.gradient, loss->pairs.count, 2};
      if (2 * pairs.count > kMaxPairsScanned && loss->grad_loss && loss->reduction == Reduction::kMean) {
        auto* counted = workspace_.array<int64_t>(kTermCounts * kCountChunks);
        launch("count_difficulties", count_difficulties_kernel<acc_t>, {kCountChunks, kListThreads, kSumBytes}, stream_,
               *loss, counted);
        list.counted = counted;
      }
    }
    const bool indexed = pairs.count * pairs.partners > kMaxPairsScanned;
    x_ = row_stats(rows_.x, rows_.count, indexed);
    refs_ = row_stats(rows_.refs, rows_.refs ? rows_.ref_count : 0, indexed);
    const int64_t blocks = std::max<int64_t>(
        1, std::max(finite_flag_count(x_.count),
                    std::max(finite_flag_count(refs_.count), ceil_div(pairs.count, 128) * loss_blocks(loss))));
    launch("measure_pairs", measure_pairs_kernel<Scalar, acc_t>, {blocks, kGatherThreads, kSumBytes}, stream_, x_,
           refs_, loss != nullptr, list);
    if (propagates_nan_ && indexed) {
      auto* all = workspace_.array<int32_t>(1);
      launch("all_finite", all_finite_kernel, {1, kScanThreads}, stream_, static_cast<const int32_t*>(x_.finite),
             finite_flag_count(x_.count), static_cast<const int32_t*>(refs_.finite), finite_flag_count(refs_.count),
             is_valid_, all);
      all_finite_ = all;
    }
    const PairEndpoints<acc_t> endpoints{pairs, rows_.count, rows_.refs ? rows_.ref_count : rows_.count};
    if (out_.x) gather(endpoints, x_, {.left = true, .right = !rows_.refs}, indexed, out_.x);
    if (out_.refs && rows_.refs) gather(endpoints, refs_, {.left = false, .right = true}, indexed, out_.refs);
  }

 private:
  static constexpr size_t kSumBytes = kTermCounts * kMaxWarps * sizeof(double);

  static int64_t loss_blocks(const LossGradient<acc_t>* loss) { return loss ? 1 : 0; }

  RowStats<Scalar, acc_t> row_stats(const Scalar* x, int64_t count, bool indexed) {
    return {
        .x = x,
        .count = count,
        .depth = rows_.depth,
        .norm = measure_.normalized ? workspace_.array<acc_t>(count) : nullptr,
        .finite = workspace_.array<int32_t>(finite_flag_count(count)),
        .incidence_count = indexed ? workspace_.array<int64_t>(count) : nullptr,
    };
  }

  void gather(const PairEndpoints<acc_t>& endpoints, const RowStats<Scalar, acc_t>& rows, PairRoles roles, bool indexed,
              Scalar* grad) {
    const auto operand = [](const RowStats<Scalar, acc_t>& rows) {
      return GatherOperand<Scalar, acc_t>{rows.x, rows.norm, rows.count};
    };
    GatherParams<Scalar, acc_t> params{
        .measure = measure_,
        .endpoints = endpoints,
        .rows = operand(rows),
        .left = operand(x_),
        .right = operand(rows_.refs ? refs_ : x_),
        .roles = roles,
        .row_to_pairs = {},
        .depth = rows_.depth,
        .finite = {},
        .grad = grad,
    };
    if (all_finite_) {
      params.finite = {{all_finite_}, {1}};
    } else if (propagates_nan_) {
      params.finite = {{x_.finite, refs_.finite, is_valid_},
                       {finite_flag_count(x_.count), finite_flag_count(refs_.count), 1}};
    }
    const PairRoles listed{.left = roles.left && endpoints.pairs.left,
                           .right = roles.right};  // implicit entries are not
    if (indexed && (listed.left || listed.right)) {
      const int64_t pairs = endpoints.pair_count();
      const Grid grid{std::min<int64_t>(ceil_div(pairs, kListThreads), 4096), kListThreads};
      auto* begin = workspace_.array<int64_t>(rows.count + 1);
      auto* endpoint = workspace_.array<int64_t>((listed.left + listed.right) * pairs);
      launch("count_incidences", count_incidences_kernel<acc_t>, grid, stream_, endpoints, listed,
             rows.incidence_count);
      launch("scan_incidences", scan_incidences_kernel, {1, kScanThreads, kMaxWarps * sizeof(int64_t)}, stream_,
             rows.incidence_count, rows.count, begin);
      launch("fill_row_to_pairs", fill_row_to_pairs_kernel<acc_t>, grid, stream_, endpoints, listed,
             static_cast<const int64_t*>(begin), rows.incidence_count, endpoint);
      params.row_to_pairs = {begin, endpoint};
    }
    launch("gather_gradient",
           is_hyperbolic(measure_) ? gather_gradient_kernel<Scalar, acc_t, true>
                                   : gather_gradient_kernel<Scalar, acc_t, false>,
           {rows.count, kGatherThreads, sizeof(GatherShared<acc_t>)}, stream_, params);
  }

  const PairMeasure measure_;
  const MatrixPair<Scalar> rows_;
  const bool propagates_nan_;
  const int32_t* const is_valid_;  // [1], or null
  const GradientOut<Scalar> out_;
  Workspace& workspace_;
  const Stream& stream_;
  RowStats<Scalar, acc_t> x_{}, refs_{};
  const int32_t* all_finite_ = nullptr;  // [1]
};

}  // namespace

template <class Scalar, class acc_t>
void pair_gradient(const PairMeasure& measure, const MatrixPair<Scalar>& rows, const PairList<acc_t>& pairs,
                   NonfiniteRows nonfinite, const GradientOut<Scalar>& out, Workspace& workspace, const Stream& stream,
                   const int32_t* is_valid) {
  PairGradient<Scalar, acc_t>(measure, rows, nonfinite, out, workspace, stream, is_valid).run(pairs, nullptr);
}

template <class Scalar, class acc_t>
void triplet_loss_gradient(const PairMeasure& measure, const MatrixPair<Scalar>& rows, const LossGradient<acc_t>& loss,
                           NonfiniteRows nonfinite, const GradientOut<Scalar>& out, Workspace& workspace,
                           const Stream& stream) {
  PairGradient<Scalar, acc_t>(measure, rows, nonfinite, out, workspace, stream).run({}, &loss);
}

#define HARDMINE_INSTANTIATE(Scalar, acc_t)                                     \
  template decltype(pair_gradient<Scalar, acc_t>) pair_gradient<Scalar, acc_t>; \
  template decltype(triplet_loss_gradient<Scalar, acc_t>) triplet_loss_gradient<Scalar, acc_t>;
HARDMINE_INSTANTIATE(BFloat16, float)
HARDMINE_INSTANTIATE(Float16, float)
HARDMINE_INSTANTIATE(float, float)
HARDMINE_INSTANTIATE(double, double)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
