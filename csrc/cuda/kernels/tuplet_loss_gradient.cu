// Backward, one strip of rows at a time: the scores again, from them the derivatives of the loss by all similarities of
// the strip, and the product of those weights with all columns. If the batch is its own set of candidates, a weight
// sums the derivatives of both its anchors. Refs get a pass of their own.

#include "core/int_math.h"
#include "cuda/device/collectives.h"
#include "cuda/kernels/strip_gradient.h"
#include "cuda/kernels/tuplet_loss.h"
#include "cuda/kernels/tuplet_weights.h"

namespace hardmine::cuda {
namespace {

constexpr int kStartThreads = 256;

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

// An operand and, for anchors, their coefficients.
template <class MmaPolicy, class Scalar>
struct TupletOperand : GradientOperand<MmaPolicy, Scalar> {
  TupletCoefficients<typename MmaPolicy::acc_t> anchors;  // null for refs
};

template <class MmaPolicy, class Scalar>
class TupletGradient {
  using acc_t = typename MmaPolicy::acc_t;
  using Operand = TupletOperand<MmaPolicy, Scalar>;

 public:
  TupletGradient(const TupletRule& rule, int64_t depth, int64_t strip_weights, Workspace& workspace,
                 const Stream& stream)
      : rule_(rule),
        gradient_(rule.similarity, depth, strip_weights, workspace, stream),
        workspace_(workspace),
        stream_(stream) {}

  Operand operand(const LabeledMatrix<Scalar>& rows) const { return {gradient_.operand(rows), {}}; }

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
    gradient_.run(rows, columns, symmetric, grad, [&](int64_t tiles, int64_t first, int64_t last, acc_t* weight) {
      params.first_row = first;
      params.last_row = last;
      params.weight = weight;
      launch("tuplet_weights",
             params.ids.given() ? tuplet_weights_kernel<MmaPolicy, Ids::kGiven>
                                : tuplet_weights_kernel<MmaPolicy, Ids::kNone>,
             {tiles, kTileThreads, MmaPolicy::kSharedBytes + TileLabels<MmaPolicy>::kBytes}, stream_, params);
    });
  }

 private:
  const TupletRule rule_;
  const StripGradient<MmaPolicy, Scalar> gradient_;
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
  const auto y = refs ? gradient.operand(*refs) : TupletOperand<MmaPolicy, Scalar>{};
  gradient.start(saved, x, y);
  if (out.x) gradient.run(x, refs ? y : x, !refs, out.x);
  if (refs && out.refs) gradient.run(y, x, false, out.refs);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(tuplet_loss_gradient<MmaPolicy, Scalar>) tuplet_loss_gradient<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
