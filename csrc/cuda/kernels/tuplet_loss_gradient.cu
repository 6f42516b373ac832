// Backward, one strip of rows at a time: the scores again, from them the derivatives of the loss by all similarities of
// the strip, and the product of those weights with all columns. If the batch is its own set of candidates, a weight
// sums the derivatives of both its anchors. Refs get a pass of their own.

#include <type_traits>

#include "core/int_math.h"
#include "cuda/device/collectives.h"
#include "cuda/gemm/gradient_gemm.h"
#include "cuda/gemm/gradient_gemm_differences.h"
#include "cuda/gemm/row_stats.h"
#include "cuda/kernels/tuplet_loss.h"
#include "cuda/kernels/tuplet_weights.h"

namespace hardmine::cuda {
namespace {

constexpr int kStartThreads = 256, kEpilogueThreads = 256;
constexpr int64_t kMaxEpilogueBlocks = 2048;

// Computes the coefficients of every anchor. Each block counts the valid anchors.
template <class acc_t>
struct TupletStart {
  TupletRule rule;
  TupletSaved<acc_t> saved;
  int64_t count;
  TupletCoefficients<acc_t> coefficients;

  __device__ __forceinline__ void run(double* shared) const {
    double valid[1] = {0};
    if (rule.reduction == Reduction::kMean) {
      for (int64_t i = threadIdx.x; i < count; i += blockDim.x) valid[0] += saved.positive_count[i] > 0;
      block_all_reduce_sum<1>(valid, shared);
    }
    const double loss_weight = tuplet_loss_weight(rule.reduction, static_cast<int64_t>(valid[0]));
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
      write(i, loss_weight);
  }

 private:
  __device__ __forceinline__ void write(int64_t i, double loss_weight) const {
    const acc_t gradient = tuplet_gradient(loss_weight, saved.grad_loss[rule.reduction == Reduction::kNone ? i : 0]);
    const AnchorCoefficients<acc_t> of_anchor =
        anchor_coefficients(rule, gradient, saved.shift[i], saved.sum[i], saved.slope[i], saved.positive_count[i]);
    const bool has_one_positive = saved.positive_count[i] > 0 && rule.positive != TupletPositive::kAll;
    coefficients.negative_weight[i] = of_anchor.negative_weight;
    coefficients.shift[i] = of_anchor.shift;
    coefficients.positive_weight[i] = of_anchor.positive_weight;
    coefficients.log_sum[i] = of_anchor.log_sum;
    coefficients.positive[i] = has_one_positive ? static_cast<Index>(saved.positive_index[i]) : kBelowRange;
  }
};

template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kStartThreads, 2)
    start_tuplet_gradient_kernel(TupletStart<acc_t> start, RowStats<Scalar, acc_t> rows, RowStats<Scalar, acc_t> refs) {
  start.run(reinterpret_cast<double*>(shared_memory()));
  compute_row_stats(rows);
  compute_row_stats(refs);
}

template <class MmaPolicy, Ids kIds>
__global__ void __launch_bounds__(kTileThreads, 2) tuplet_weights_kernel(TupletWeightParams<MmaPolicy> params) {
  TupletWeightTile<MmaPolicy, kIds> tile(params);
  const int64_t columns = panels_of<MmaPolicy>(params.columns.count), first = params.first_row / MmaPolicy::kTile;
  const int64_t rows = panels_of<MmaPolicy>(params.last_row - params.first_row);
  for (int64_t i = blockIdx.x; i < rows * columns; i += gridDim.x) tile.visit(first + i % rows, i / rows);
}

// From the product of a strip to the gradient of its rows.
template <class Scalar, class acc_t>
struct StripEpilogue {
  const Scalar* x;    // [all rows, depth]
  const acc_t* norm;  // [all rows], clamped from below; null: not normalized
  int64_t first_row, last_row, depth;
  const acc_t* product;  // [num_splits, strip rows, depth]
  int64_t num_splits;
  FiniteFlags<2> finite;  // all gradients are NaN if some row is not finite
  Scalar* grad;           // [all rows, depth]
};

// One row per warp.
template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kEpilogueThreads, 4) finalize_strip_kernel(StripEpilogue<Scalar, acc_t> epilogue) {
  constexpr int kWarps = kEpilogueThreads / 32;
  const bool propagate_nan = epilogue.finite.block_any_nonfinite();
  for (int64_t row = epilogue.first_row + int64_t{blockIdx.x} * kWarps + warp_index(); row < epilogue.last_row;
       row += int64_t{gridDim.x} * kWarps) {
    const Scalar* self = epilogue.x + row * epilogue.depth;
    const acc_t* product = epilogue.product + (row - epilogue.first_row) * epilogue.depth;
    const auto sum = [&](int64_t k) {
      acc_t value = product[k];
      for (int64_t split = 1; split < epilogue.num_splits; ++split)
        value += product[split * (epilogue.last_row - epilogue.first_row) * epilogue.depth + k];
      return value;
    };
    const acc_t norm = epilogue.norm ? epilogue.norm[row] : acc_t(1);
    acc_t radial = 0;
    const bool is_zero = epilogue.norm && !has_direction(norm);
    if (epilogue.norm && !is_zero) {
      for (int64_t k = lane_index(); k < epilogue.depth; k += 32) radial = fma(sum(k), to_acc(self[k]) / norm, radial);
      radial = warp_reduce_sum(radial);
    }
    for (int64_t k = lane_index(); k < epilogue.depth; k += 32) {
      acc_t value = is_zero ? acc_t(0) : sum(k);
      if (epilogue.norm) value = projected(value, to_acc(self[k]) / norm, radial, norm);
      epilogue.grad[row * epilogue.depth + k] =
          from_acc<Scalar>(propagate_nan ? std::numeric_limits<acc_t>::quiet_NaN() : value);
    }
  }
}

// A packed matrix, its row statistics and, for anchors, their coefficients.
template <class MmaPolicy, class Scalar>
struct GradientOperand {
  using acc_t = typename MmaPolicy::acc_t;
  LabeledMatrix<Scalar> rows;
  RowStats<Scalar, acc_t> stats;
  PackedMatrix<MmaPolicy> packed;
  TupletCoefficients<acc_t> anchors;  // null for refs
};

template <class MmaPolicy, class Scalar>
class TupletGradient {
  using acc_t = typename MmaPolicy::acc_t;
  using Operand = GradientOperand<MmaPolicy, Scalar>;

 public:
  TupletGradient(const TupletRule& rule, int64_t depth, int64_t strip_weights, Workspace& workspace,
                 const Stream& stream)
      : rule_(rule), depth_(depth), strip_weights_(strip_weights), workspace_(workspace), stream_(stream) {}

  Operand operand(const LabeledMatrix<Scalar>& rows) {
    const bool normalized = measure_of(rule_.similarity).normalized;
    Operand out{};
    out.rows = rows;
    out.stats = {
        .x = rows.x,
        .count = rows.count,
        .depth = depth_,
        .norm = normalized ? workspace_.array<acc_t>(rows.count) : nullptr,
        .finite = workspace_.array<int32_t>(finite_flag_count(rows.count)),
        .incidence_count = nullptr,
    };
    if (rows.count > 0)
      out.packed = pack_matrix<MmaPolicy>(rows.x, rows.count, depth_, normalized, workspace_, stream_);
    return out;
  }

  // Writes the anchors' coefficients. `refs` is empty without refs.
  void start(const TupletSaved<acc_t>& saved, Operand& anchors, const Operand& refs) {
    const int64_t count = anchors.rows.count;
    anchors.anchors = {
        .negative_weight = workspace_.array<acc_t>(count),
        .shift = workspace_.array<acc_t>(count),
        .positive_weight = workspace_.array<acc_t>(count),
        .log_sum = workspace_.array<acc_t>(count),
        .positive = workspace_.array<Index>(count),
    };
    const int64_t blocks = std::max<int64_t>(
        {1, ceil_div(count, kStartThreads), finite_flag_count(count), finite_flag_count(refs.rows.count)});
    launch("start_tuplet_gradient", start_tuplet_gradient_kernel<Scalar, acc_t>,
           {std::min<int64_t>(blocks, 4096), kStartThreads, kMaxWarps * sizeof(double)}, stream_,
           TupletStart<acc_t>{rule_, saved, count, anchors.anchors}, anchors.stats, refs.stats);
  }

  // The gradient of `rows`, from all their pairs with `columns`.
  void run(const Operand& rows, const Operand& columns, bool symmetric, Scalar* grad) {
    const int64_t count = rows.rows.count, column_count = columns.rows.count;
    if (count == 0) return;
    TupletWeightParams<MmaPolicy> params{};
    params.rows = rows.packed;
    params.columns = columns.packed;
    params.row_label = rows.rows.label;
    params.column_label = columns.rows.label;
    params.symmetric = symmetric;
    params.ids = {rows.rows.id, columns.rows.id};
    params.row_coefficients = rows.anchors;
    params.column_coefficients = columns.anchors;
    params.all = rule_.positive == TupletPositive::kAll;
    params.one_shift = one_shift_suffices(rule_);
    params.log2e_over_temperature = static_cast<acc_t>(kLog2E / rule_.temperature);
    params.inverse_temperature = static_cast<acc_t>(1 / rule_.temperature);
    params.limit = max_key(rule_.similarity, static_cast<acc_t>(rule_.duplicate_threshold));

    const int64_t max_rows = std::max(2 * depth_, strip_weights_ / std::max<int64_t>(column_count, 1));
    const int64_t strip =
        std::min(std::min(round_up(max_rows, kStripAlignment), round_up(count, kStripAlignment)), count);
    params.weight = workspace_.array<acc_t>(strip * column_count);
    StripSums sums(*this, strip, columns);
    for (int64_t first = 0; first < count; first += strip) {
      params.first_row = first;
      params.last_row = std::min(first + strip, count);
      const int64_t tiles = panels_of<MmaPolicy>(params.last_row - first) * panels_of<MmaPolicy>(column_count);
      launch("tuplet_weights",
             params.ids.given() ? tuplet_weights_kernel<MmaPolicy, Ids::kGiven>
                                : tuplet_weights_kernel<MmaPolicy, Ids::kNone>,
             {tiles, kTileThreads, MmaPolicy::kSharedBytes + TileLabels<MmaPolicy>::kBytes}, stream_, params);
      sums.add_up(rows.rows.x + first * depth_, {params.weight, params.last_row - first, column_count});
      const StripEpilogue<Scalar, acc_t> epilogue{
          .x = rows.rows.x,
          .norm = rows.stats.norm,
          .first_row = first,
          .last_row = params.last_row,
          .depth = depth_,
          .product = sums.out,
          .num_splits = sums.num_splits,
          .finite = {{rows.stats.finite, columns.stats.finite},
                     {finite_flag_count(count), symmetric ? 0 : finite_flag_count(column_count)}},
          .grad = grad,
      };
      const int64_t blocks = ceil_div(params.last_row - first, kEpilogueThreads / 32);
      launch("finalize_strip", finalize_strip_kernel<Scalar, acc_t>,
             {std::min(blocks, kMaxEpilogueBlocks), kEpilogueThreads}, stream_, epilogue);
    }
  }

 private:
  // Weighted sums over the columns, per row of a strip: of the columns themselves, or of differences for distances.
  struct StripSums {
    const TupletGradient& gradient;
    const Scalar* column;  // [columns, depth]
    int64_t num_splits = 1;
    acc_t* out;  // [num_splits, strip rows, depth]
    std::conditional_t<MmaPolicy::kSquaredDifferences, std::nullptr_t, GradientGemm<MmaPolicy>> gemm{};

    StripSums(const TupletGradient& of, int64_t strip, const Operand& columns) : gradient(of), column(columns.rows.x) {
      const int64_t column_count = columns.rows.count, depth = of.depth_;
      if constexpr (MmaPolicy::kSquaredDifferences) {
        num_splits = difference_splits(strip, column_count, depth);
      } else {
        gemm = make_gradient_gemm<MmaPolicy>(
            GradientGemmRows<Scalar, acc_t>{column, column_count, depth, columns.stats.norm, nullptr},
            {.strip_rows = strip}, of.workspace_, of.stream_);
      }
      out = of.workspace_.template array<acc_t>(num_splits * strip * depth);
    }

    void add_up(const Scalar* row, const WeightStrip<acc_t>& strip) const {
      if constexpr (MmaPolicy::kSquaredDifferences) {
        gradient_gemm_differences(
            GradientGemmDifferences<Scalar, acc_t>{row, column, gradient.depth_, strip, num_splits, out},
            gradient.stream_);
      } else {
        gradient_gemm<MmaPolicy>(gemm, strip, out, gradient.stream_);
      }
    }
  };

  const TupletRule rule_;
  const int64_t depth_, strip_weights_;
  Workspace& workspace_;
  const Stream& stream_;
};

}  // namespace

template <class MmaPolicy, class Scalar>
void tuplet_loss_gradient(const TupletRule& rule, const LabeledMatrix<Scalar>& anchors,
                          const LabeledMatrix<Scalar>* refs, int64_t depth,
                          const TupletSaved<typename MmaPolicy::acc_t>& saved, const GradientOut<Scalar>& out,
                          Workspace& workspace, const Stream& stream, int64_t strip_weights) {
  TupletGradient<MmaPolicy, Scalar> gradient(rule, depth, strip_weights, workspace, stream);
  auto x = gradient.operand(anchors);
  const auto y = refs ? gradient.operand(*refs) : GradientOperand<MmaPolicy, Scalar>{};
  gradient.start(saved, x, y);
  if (out.x) gradient.run(x, refs ? y : x, !refs, out.x);
  if (refs && out.refs) gradient.run(y, x, false, out.refs);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(tuplet_loss_gradient<MmaPolicy, Scalar>) tuplet_loss_gradient<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
