// One strip of anchors at a time: a matrix of the values of their pairs, which is overwritten by the weights of the
// pairs. Gradient GEMMs multiply the weights with the rows, once for the anchors and once for their partners.

#include "cuda/kernels/batch_all_triplet_loss.h"

#include <type_traits>

#include "core/int_math.h"
#include "cuda/gemm/gradient_gemm.h"
#include "cuda/gemm/make_tile.h"
#include "cuda/gemm/row_stats.h"
#include "cuda/kernels/batch_all_anchor.h"

namespace hardmine::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kStripEntries = int64_t{1} << 22;  // per strip, whatever the depth

// The gradient of distances is a matrix product as well.
template <class MmaPolicy>
using GradientMmaPolicy = std::conditional_t<
    !MmaPolicy::kSquaredDifferences, MmaPolicy,
    std::conditional_t<std::is_same_v<typename MmaPolicy::acc_t, double>, DoubleProducts, FloatProducts>>;

// The gradient of a row from its weighted sum. With W the sum of the row's weights over all its pairs, it is
//   sum of w y - W x,
// where a common center is subtracted from x and y. For inner products the term W x is skipped: the projection removes
// it.
template <class Scalar, class acc_t>
struct BatchAllGradient {
  const Scalar* x;  // [count, depth]
  int64_t count, depth;
  const acc_t* norm;    // [count]; null: rows are not normalized
  const acc_t* center;  // [depth]; null for inner products
  double* weight;       // [count]: W; used only with a center
  acc_t* grad;          // [count, depth]; null: not needed

  __device__ __forceinline__ acc_t row(int64_t i, int64_t k) const {
    const acc_t x_k = to_acc(x[i * depth + k]);
    return norm ? x_k / norm[i] : x_k;
  }
};

// Also writes `shift` [count], which is null except for inner products. Added to the scores of the negative and of the
// positive, it makes v half a squared distance, even for rows that are too short to be unit rows.
template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kThreads, 4)
    start_batch_all_kernel(RowStats<Scalar, acc_t> rows, acc_t* shift, BatchAllGradient<Scalar, acc_t> gradient) {
  compute_row_stats(rows);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows.count; i += int64_t{gridDim.x} * kThreads)
    gradient.weight[i] = 0;
  if (gradient.grad)
    for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows.count * rows.depth;
         i += int64_t{gridDim.x} * kThreads)
      gradient.grad[i] = 0;
  if (!shift) return;
  constexpr int kWarps = kThreads / 32;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + warp_index(); i < rows.count; i += int64_t{gridDim.x} * kWarps) {
    const acc_t norm = warp_row_norm<acc_t>(rows.x + i * rows.depth, rows.depth);
    const acc_t unit = norm / acc_t(kMinNorm);
    if (lane_index() == 0) shift[i] = unit <= acc_t(1) ? (1 - unit * unit) / 2 : acc_t(0);
  }
}

// The median of three rows at each depth. It is close to all rows if they are close to each other, so differences from
// it are as exact as differences between rows.
template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kThreads, 4) center_kernel(BatchAllGradient<Scalar, acc_t> gradient, acc_t* center) {
  for (int64_t k = int64_t{blockIdx.x} * kThreads + threadIdx.x; k < gradient.depth;
       k += int64_t{gridDim.x} * kThreads) {
    const acc_t a = gradient.row(0, k), b = gradient.row(gradient.count / 2, k),
                c = gradient.row(gradient.count - 1, k);
    const acc_t low = a < b ? a : b, high = a < b ? b : a;
    center[k] = c < low ? low : c > high ? high : c;
  }
}

template <class MmaPolicy>
struct PairMeasureParams {
  using acc_t = typename MmaPolicy::acc_t;
  PackedMatrix<MmaPolicy> rows, columns;
  const acc_t* shift;  // [columns]
  bool squared;
  int64_t first_row, strip_rows;
  acc_t* pairs;  // [strip_rows, columns]
};

template <class MmaPolicy>
__global__ void __launch_bounds__(kTileThreads, 2) measures_kernel(PairMeasureParams<MmaPolicy> params) {
  using acc_t = typename MmaPolicy::acc_t;
  const int64_t row_panels = panels_of<MmaPolicy>(params.strip_rows), count = params.columns.count;
  Fragment<MmaPolicy> fragment;
  for (int64_t i = blockIdx.x; i < row_panels * panels_of<MmaPolicy>(count); i += gridDim.x) {
    const int64_t row_panel = i % row_panels, column_panel = i / row_panels;
    make_tile(params.rows, params.columns, params.first_row / MmaPolicy::kTile + row_panel, column_panel, fragment);
#pragma unroll
    for (int r = 0; r < MmaPolicy::kRows; ++r) {
      const int64_t row = row_panel * MmaPolicy::kTile + MmaPolicy::row(r);
      if (row >= params.strip_rows) continue;
#pragma unroll
      for (int c = 0; c < MmaPolicy::kColumns; ++c) {
        const int64_t column = column_panel * MmaPolicy::kTile + MmaPolicy::column(c);
        if (column >= count) continue;
        acc_t v = fragment.at[r][c];
        if constexpr (MmaPolicy::kSquaredDifferences) {
          v = batch_all_v(true, params.squared, v);
        } else {
          v += params.shift[column];
        }
        params.pairs[row * count + column] = v;
      }
    }
  }
}

template <class acc_t>
__global__ void __launch_bounds__(kAnchorThreads, 2) anchors_kernel(AnchorParams<acc_t> params) {
  for (int64_t i = blockIdx.x; i < params.rows; i += gridDim.x) Anchor<acc_t>(params, i).run();
}

// Adds the column sums of a strip of weights.
template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kThreads, 4)
    add_column_weights_kernel(WeightStrip<acc_t> strip, BatchAllGradient<Scalar, acc_t> gradient) {
  for (int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x; c < strip.columns;
       c += int64_t{gridDim.x} * kThreads) {
    double sum = 0;
    for (int64_t r = 0; r < strip.rows; ++r) sum += static_cast<double>(strip.weight[r * strip.columns + c]);
    gradient.weight[c] += sum;
  }
}

template <class acc_t>
struct BatchAllEpilogue {
  BatchAllReduction reduction;
  int64_t count;                      // of anchors; 0 if there are no pairs
  const double* value;                // [count]
  const int64_t *active, *total;      // [count]
  FiniteFlags<2> finite;              // of anchors and refs
  const int32_t* margins_are_finite;  // [count]; null without a table
  BatchAllOut<acc_t> out;
  acc_t* loss_weight;  // [1]: the factor of the gradient
};

// Launched with one block.
template <class acc_t>
__global__ void __launch_bounds__(kThreads, 1) finalize_batch_all_kernel(BatchAllEpilogue<acc_t> epilogue) {
  double value[1] = {0};
  int64_t counts[2] = {0, 0};
  bool has_nonfinite_margin = false;
  for (int64_t i = threadIdx.x; i < epilogue.count; i += kThreads) {
    value[0] += epilogue.value[i];
    counts[0] += epilogue.active[i];
    counts[1] += epilogue.total[i];
    if (epilogue.margins_are_finite) has_nonfinite_margin |= epilogue.margins_are_finite[i] == 0;
  }
  const bool has_nonfinite = epilogue.finite.block_any_nonfinite();
  has_nonfinite_margin = __syncthreads_or(has_nonfinite_margin);
  block_reduce_sum<1>(value, reinterpret_cast<double*>(shared_memory()));
  block_reduce_sum<2>(counts, reinterpret_cast<int64_t*>(shared_memory()));
  if (threadIdx.x != 0) return;
  const acc_t nan = std::numeric_limits<acc_t>::quiet_NaN();
  const double loss_weight = batch_all_loss_weight(epilogue.reduction, counts[0], counts[1]);
  *epilogue.out.loss = has_nonfinite_margin || has_nonfinite ? nan : static_cast<acc_t>(loss_weight * value[0]);
  *epilogue.loss_weight = has_nonfinite_margin || has_nonfinite ? nan : static_cast<acc_t>(loss_weight);
  *epilogue.out.active = has_nonfinite ? 0 : counts[0];
  *epilogue.out.total = has_nonfinite ? 0 : counts[1];
}

// One row per block.
template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kTileThreads, 4)
    finalize_batch_all_gradient_kernel(BatchAllGradient<Scalar, acc_t> gradient, const acc_t* factor) {
  acc_t* const exchange = reinterpret_cast<acc_t*>(shared_memory());
  const acc_t loss_weight = *factor;
  for (int64_t i = blockIdx.x; i < gradient.count; i += gridDim.x) {
    acc_t* const grad = gradient.grad + i * gradient.depth;
    const bool is_zero = gradient.norm && !has_direction(gradient.norm[i]);
    const bool projects = gradient.norm && !is_zero;
    const acc_t weight = gradient.center ? static_cast<acc_t>(gradient.weight[i]) : acc_t(0);
    acc_t radial[1] = {0};
    for (int64_t k = threadIdx.x; k < gradient.depth; k += kTileThreads) {
      const acc_t x = gradient.row(i, k);
      const acc_t value = loss_weight * (grad[k] - weight * (gradient.center ? x - gradient.center[k] : x));
      radial[0] += value * x;
      grad[k] = value;
    }
    if (projects) block_all_reduce_sum<1>(radial, exchange);
    for (int64_t k = threadIdx.x; k < gradient.depth; k += kTileThreads) {
      acc_t value = loss_weight != loss_weight ? loss_weight : is_zero ? acc_t(0) : grad[k];
      if (projects) value = projected(value, gradient.row(i, k), radial[0], gradient.norm[i]);
      grad[k] = value;
    }
  }
}

template <class acc_t>
__global__ void __launch_bounds__(kThreads, 4)
    scale_gradient_kernel(const acc_t* grad, const acc_t* factor, int64_t size, acc_t* out) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < size; i += int64_t{gridDim.x} * kThreads)
    out[i] = *factor * grad[i];
}

int64_t blocks_of(int64_t threads) { return ceil_div(threads, kThreads); }

int64_t rows_of_strip(int64_t count, int64_t columns, int64_t depth) {
  const int64_t rows = std::min(std::max({int64_t{256}, 2 * depth, kStripEntries / columns}), count);
  return round_up(rows, kStripAlignment);
}

// A matrix, what the kernels know of its rows, and its gradient.
template <class MmaPolicy, class Scalar>
struct BatchAllOperand {
  using acc_t = typename MmaPolicy::acc_t;
  RowStats<Scalar, acc_t> stats{};
  BatchAllGradient<Scalar, acc_t> gradient{};
  acc_t* shift = nullptr;  // see start_batch_all_kernel
  PackedMatrix<MmaPolicy> packed{};

  BatchAllOperand() = default;  // of no rows
  BatchAllOperand(const LabeledMatrix<Scalar>& rows, int64_t depth, const PairMeasure& measure, acc_t* grad,
                  Workspace& workspace, const Stream& stream) {
    acc_t* const norm = measure.normalized ? workspace.array<acc_t>(rows.count) : nullptr;
    stats = {
        .x = rows.x,
        .count = rows.count,
        .depth = depth,
        .norm = norm,
        .finite = workspace.array<int32_t>(finite_flag_count(rows.count)),
        .incidence_count = nullptr,
    };
    gradient = {
        .x = rows.x,
        .count = rows.count,
        .depth = depth,
        .norm = norm,
        .center = nullptr,
        .weight = workspace.array<double>(rows.count),
        .grad = grad,
    };
    if (!MmaPolicy::kSquaredDifferences) shift = workspace.array<acc_t>(rows.count);
    if (rows.count == 0) return;
    launch("start_batch_all", start_batch_all_kernel<Scalar, acc_t>,
           {std::max(finite_flag_count(rows.count), blocks_of(grad ? rows.count * depth / 16 : rows.count)), kThreads},
           stream, stats, shift, gradient);
    packed = pack_matrix<MmaPolicy>(rows.x, rows.count, depth, measure, workspace, stream);
  }

  GradientGemmRows<Scalar, acc_t> gemm_rows() const {
    return {stats.x, stats.count, stats.depth, stats.norm, gradient.center};
  }
  void finalize(const acc_t* loss_weight, const Stream& stream) const {
    if (!gradient.grad) return;
    launch("finalize_batch_all_gradient", finalize_batch_all_gradient_kernel<Scalar, acc_t>,
           {stats.count, kTileThreads, kMaxWarps * sizeof(acc_t)}, stream, gradient, loss_weight);
  }
};

}  // namespace

template <class MmaPolicy, class Scalar>
void batch_all(const BatchAllRule& rule, const LabeledMatrix<Scalar>& rows, const LabeledMatrix<Scalar>* refs,
               int64_t depth, const MarginTable<typename MmaPolicy::acc_t>& table,
               const BatchAllOut<typename MmaPolicy::acc_t>& out, const BatchAllChunks& chunks, Workspace& workspace,
               const Stream& stream) {
  using acc_t = typename MmaPolicy::acc_t;
  using GemmPolicy = GradientMmaPolicy<MmaPolicy>;
  using Operand = BatchAllOperand<MmaPolicy, Scalar>;
  const PairMeasure measure = batch_all_measure(rule, true);
  Operand x(rows, depth, measure, out.grad_x, workspace, stream);
  Operand of_refs = refs ? Operand(*refs, depth, measure, out.grad_refs, workspace, stream) : Operand();
  Operand& y = refs ? of_refs : x;
  const int64_t columns = refs ? refs->count : rows.count, count = columns > 0 ? rows.count : 0;
  const bool need_gradient = x.gradient.grad || y.gradient.grad;

  AnchorParams<acc_t> anchors{};
  anchors.label = rows.label;
  anchors.id = rows.id;
  anchors.column_label = refs ? refs->label : rows.label;
  anchors.column_id = refs ? refs->id : rows.id;
  anchors.symmetric = refs == nullptr;
  anchors.columns = columns;
  anchors.squared = rule.squared;
  anchors.half_margin = 0.5 * rule.margin;
  anchors.table = table;
  anchors.column_table_row = refs ? table.ref_row : table.row;
  anchors.need_weights = need_gradient;
  anchors.value = workspace.array<double>(count);
  anchors.weight = x.gradient.weight;
  anchors.active = workspace.array<int64_t>(count);
  anchors.total = workspace.array<int64_t>(count);
  if (table.margin) anchors.margins_are_finite = workspace.array<int32_t>(count);
  PairMeasureParams<MmaPolicy> measures{};
  measures.rows = x.packed;
  measures.columns = y.packed;
  measures.shift = y.shift;
  measures.squared = rule.squared;

  int64_t strip_rows = 0;
  GradientGemm<GemmPolicy> gemm{}, transposed_gemm{};  // sums of columns, and of anchors
  if (count > 0) {
    strip_rows = std::min(chunks.strip_rows ? chunks.strip_rows : rows_of_strip(count, columns, depth), count);
    anchors.pairs = measures.pairs = workspace.array<acc_t>(strip_rows * columns);
    anchors.positives = static_cast<int>(next_power_of_two(std::min(columns, chunks.positives)));
    if (columns > anchors.positives) anchors.actives = workspace.array<int32_t>(strip_rows * columns);
  }
  if (count > 0 && need_gradient) {
    if (MmaPolicy::kSquaredDifferences) {
      acc_t* const center = workspace.array<acc_t>(depth);
      launch("center", center_kernel<Scalar, acc_t>, {blocks_of(depth), kThreads}, stream, x.gradient, center);
      x.gradient.center = y.gradient.center = center;
    }
    // Without refs, one packed copy serves both products.
    const GradientGemmPlan planned{.strip_rows = strip_rows, .transposed_columns = refs ? 0 : columns};
    if (x.gradient.grad) gemm = make_gradient_gemm<GemmPolicy>(y.gemm_rows(), planned, workspace, stream);
    if (!refs)
      transposed_gemm = gemm;
    else if (y.gradient.grad)
      transposed_gemm = make_gradient_gemm<GemmPolicy>(
          x.gemm_rows(), {.strip_rows = strip_rows, .untransposed = false, .transposed_columns = columns}, workspace,
          stream);
  }
  for (int64_t first = 0; first < count; first += strip_rows) {
    const WeightStrip<acc_t> strip{measures.pairs, std::min(strip_rows, count - first), columns};
    measures.first_row = anchors.first_row = first;
    measures.strip_rows = anchors.rows = strip.rows;
    launch("batch_all_measures", measures_kernel<MmaPolicy>,
           {panels_of<MmaPolicy>(strip.rows) * panels_of<MmaPolicy>(columns), kTileThreads, MmaPolicy::kSharedBytes},
           stream, measures);
    launch("batch_all_anchors", anchors_kernel<acc_t>,
           {strip.rows, anchor_threads(columns), anchor_shared_bytes<acc_t>(anchors.positives)}, stream, anchors);
    if (x.gradient.grad) gradient_gemm_accumulate<GemmPolicy>(gemm, strip, x.gradient.grad + first * depth, stream);
    if (!y.gradient.grad) continue;
    gradient_gemm_transposed_accumulate<GemmPolicy>(transposed_gemm, strip, first, y.gradient.grad, stream);
    if (MmaPolicy::kSquaredDifferences)
      launch("add_column_weights", add_column_weights_kernel<Scalar, acc_t>, {blocks_of(columns), kThreads}, stream,
             strip, y.gradient);
  }
  acc_t* const loss_weight = workspace.array<acc_t>(1);
  const BatchAllEpilogue<acc_t> epilogue{
      .reduction = rule.reduction,
      .count = count,
      .value = anchors.value,
      .active = anchors.active,
      .total = anchors.total,
      .finite = {{x.stats.finite, of_refs.stats.finite},
                 {finite_flag_count(x.stats.count), finite_flag_count(of_refs.stats.count)}},
      .margins_are_finite = anchors.margins_are_finite,
      .out = out,
      .loss_weight = loss_weight,
  };
  launch("finalize_batch_all", finalize_batch_all_kernel<acc_t>, {1, kThreads, 2 * kMaxWarps * sizeof(double)}, stream,
         epilogue);
  x.finalize(loss_weight, stream);
  of_refs.finalize(loss_weight, stream);
}

template <class acc_t>
void scale_gradient(const acc_t* grad, const acc_t* factor, int64_t size, acc_t* out, const Stream& stream) {
  launch("scale_gradient", scale_gradient_kernel<acc_t>, {blocks_of(size), kThreads}, stream, grad, factor, size, out);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(batch_all<MmaPolicy, Scalar>) batch_all<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE
template decltype(scale_gradient<float>) scale_gradient<float>;
template decltype(scale_gradient<double>) scale_gradient<double>;

}  // namespace hardmine::cuda
