#include "cuda/gemm/gradient_gemm.h"

#include <cmath>
#include <type_traits>

#include "core/int_math.h"
#include "cuda/gemm/row_stats.h"
#include "cuda/gemm/tile_engine.h"

namespace hardmine::cuda {
namespace {

constexpr int64_t kTargetBlocks = 256;  // enough to occupy a GPU
constexpr int64_t kMinSplitStages = 8;  // per split
constexpr int kReduceThreads = 256;

template <class MmaPolicy>
constexpr bool kTwoBytes = sizeof(typename MmaPolicy::Packed) == 2;
template <class MmaPolicy>
constexpr bool kShortRange = std::is_same_v<typename MmaPolicy::Packed, Float16>;

template <class MmaPolicy>
__device__ __forceinline__ void store_packed(char* target, typename MmaPolicy::acc_t x) {
  using Packed = typename MmaPolicy::Packed;
  if constexpr (MmaPolicy::kTensorCores && std::is_same_v<Packed, float>) {
    *reinterpret_cast<uint32_t*>(target) = round_to_tf32(x);
  } else {
    *reinterpret_cast<Packed*>(target) = from_acc<Packed>(x);
  }
}

// Whether neighboring threads pack neighboring rows or neighboring depths: as they lie in memory.
enum class ThreadOrder { kRowFirst, kDepthFirst };

// Packs rows [count, depth], one stage of a panel per block and iteration. value(row, k) is the element to pack.
template <class MmaPolicy, ThreadOrder kOrder, class GetValue>
__device__ __forceinline__ void pack_stages(char* panels, int64_t count, int64_t depth, const GetValue& value) {
  constexpr int kTile = MmaPolicy::kTile, kDepth = MmaPolicy::kStageDepth;
  const int64_t stages = stages_of<MmaPolicy>(depth);
  for (int64_t i = blockIdx.x; i < panels_of<MmaPolicy>(count) * stages; i += gridDim.x) {
    const int64_t first_row = i / stages * kTile, first_depth = i % stages * kDepth;
    char* stage = panels + i * MmaPolicy::kStageBytes;
    for (int n = threadIdx.x; n < kTile * kDepth; n += kTileThreads) {
      constexpr bool kDepthFirst = kOrder == ThreadOrder::kDepthFirst;
      const int r = kDepthFirst ? n / kDepth : n % kTile, k = kDepthFirst ? n % kDepth : n / kTile;
      const bool inside = first_row + r < count && first_depth + k < depth;
      store_packed<MmaPolicy>(stage + MmaPolicy::offset(r, k),
                              inside ? value(first_row + r, first_depth + k) : typename MmaPolicy::acc_t(0));
    }
  }
}

// A norm as m 2^e, 1/2 <= m < 1. Rows of 2-byte types are divided by 2^e, which is exact, and their weights by m. So
// norms change the magnitude of neither. A row with a norm near 0 does not use up the Float16 range of other weights.
struct NormParts {
  float mantissa;
  int exponent;
};
__device__ __forceinline__ NormParts parts_of(float norm) {
  NormParts parts;
  parts.mantissa = std::frexp(norm, &parts.exponent);
  return parts;
}

template <class MmaPolicy, class Scalar>
__global__ void __launch_bounds__(kTileThreads, 4)
    pack_transposed_rows_kernel(GradientGemmRows<Scalar, typename MmaPolicy::acc_t> rows, char* panels) {
  using acc_t = typename MmaPolicy::acc_t;
  pack_stages<MmaPolicy, ThreadOrder::kRowFirst>(panels, rows.depth, rows.count, [&](int64_t d, int64_t i) {
    acc_t x = to_acc(rows.x[i * rows.depth + d]);
    if constexpr (kTwoBytes<MmaPolicy>) {
      if (rows.norm) x = std::ldexp(x, -parts_of(rows.norm[i]).exponent);
    } else {
      if (rows.norm) x /= rows.norm[i];
      if (rows.center) x -= rows.center[d];
    }
    return x;
  });
}

// The weights operand: rows or columns of a strip.
template <class acc_t>
struct GradientGemmWeights {
  const acc_t* weight;  // rows and columns at row_step and depth_step
  int64_t count, depth;
  int64_t row_step, depth_step;  // strides in `weight`
  const acc_t* norm;             // [depth]; null: 1
  int32_t* exponent;             // [count]; null: 0

  __device__ __forceinline__ acc_t at(int64_t row, int64_t k) const {
    const acc_t w = weight[row * row_step + k * depth_step];
    return norm ? w / parts_of(norm[k]).mantissa : w;
  }
};

// Float16 ends at 2^16. Each row of weights is scaled so that its largest lies just below 2^15, since most of the range
// lies below.
constexpr int kTargetExponent = 15;

// The exponent of each row's largest weight; one warp per row.
template <class acc_t>
__global__ void __launch_bounds__(kTileThreads, 4) weight_exponents_kernel(GradientGemmWeights<acc_t> weights) {
  constexpr int kWarps = kTileThreads / 32;
  for (int64_t row = int64_t{blockIdx.x} * kWarps + warp_index(); row < weights.count;
       row += int64_t{gridDim.x} * kWarps) {
    acc_t max_abs = 0;
    for (int64_t k = lane_index(); k < weights.depth; k += 32) {
      const acc_t size = std::fabs(weights.at(row, k));
      if (size > max_abs && is_finite(size)) max_abs = size;  // non-finite weights stay so at any scale
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      const acc_t other = __shfl_xor_sync(kFullWarp, max_abs, mask);
      if (other > max_abs) max_abs = other;
    }
    int exponent = 0;
    std::frexp(max_abs, &exponent);
    if (lane_index() == 0) weights.exponent[row] = exponent - kTargetExponent;
  }
}

template <class MmaPolicy, ThreadOrder kOrder>
__global__ void __launch_bounds__(kTileThreads, 4)
    pack_weights_kernel(GradientGemmWeights<typename MmaPolicy::acc_t> weights, char* panels) {
  pack_stages<MmaPolicy, kOrder>(panels, weights.count, weights.depth, [&](int64_t row, int64_t k) {
    const auto w = weights.at(row, k);
    return weights.exponent ? std::ldexp(w, -weights.exponent[row]) : w;
  });
}

template <class acc_t>
struct GradientGemmOut {
  acc_t* out;               // [rows, columns]
  int64_t rows, columns;    // columns: the depth of the rows that are summed
  const int32_t* exponent;  // [rows]; null: 0
  bool adds;                // to what `out` holds
  acc_t* partial;           // [num_splits, rows, columns]
  int64_t num_splits;

  __device__ __forceinline__ void store(int64_t row, int64_t column, acc_t sum) const {
    if (exponent) sum = std::ldexp(sum, exponent[row]);
    acc_t& target = out[row * columns + column];
    target = adds ? target + sum : sum;
  }
};

// A panel of weights against one of rows. The first `stages` stages of each panel are multiplied.
struct GradientGemmOperands {
  const char *weights, *rows;  // panels
  int64_t weight_panel, row_panel, stages;
};

template <class MmaPolicy>
__global__ void __launch_bounds__(kTileThreads, 2)
    gradient_gemm_kernel(GradientGemmOperands operands, GradientGemmOut<typename MmaPolicy::acc_t> out) {
  const int64_t columns = panels_of<MmaPolicy>(out.columns), tiles = panels_of<MmaPolicy>(out.rows) * columns;
  Fragment<MmaPolicy> sum;
  for (int64_t i = blockIdx.x; i < tiles * out.num_splits; i += gridDim.x) {
    const int64_t split = i / tiles, row_panel = i % tiles / columns, column_panel = i % columns;
    const int64_t begin = operands.stages * split / out.num_splits,
                  end = operands.stages * (split + 1) / out.num_splits;
    multiply_panels<MmaPolicy>(operands.weights + row_panel * operands.weight_panel + begin * MmaPolicy::kStageBytes,
                               operands.rows + column_panel * operands.row_panel + begin * MmaPolicy::kStageBytes,
                               end - begin, shared_memory(), sum);
    typename MmaPolicy::acc_t* const partial = out.partial + split * out.rows * out.columns;
#pragma unroll
    for (int r = 0; r < MmaPolicy::kRows; ++r) {
      const int64_t row = row_panel * MmaPolicy::kTile + MmaPolicy::row(r);
      if (row >= out.rows) continue;
#pragma unroll
      for (int c = 0; c < MmaPolicy::kColumns; ++c) {
        const int64_t column = column_panel * MmaPolicy::kTile + MmaPolicy::column(c);
        if (column >= out.columns) continue;
        if (out.num_splits == 1) {
          out.store(row, column, sum.at[r][c]);
        } else {
          partial[row * out.columns + column] = sum.at[r][c];
        }
      }
    }
  }
}

template <class acc_t>
__global__ void __launch_bounds__(kReduceThreads, 4) reduce_splits_kernel(GradientGemmOut<acc_t> out) {
  const int64_t size = out.rows * out.columns;
  for (int64_t i = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x; i < size;
       i += int64_t{gridDim.x} * kReduceThreads) {
    acc_t sum = 0;
    for (int64_t split = 0; split < out.num_splits; ++split) sum += out.partial[split * size + i];
    out.store(i / out.columns, i % out.columns, sum);
  }
}

template <class MmaPolicy>
int64_t splits_for(int64_t rows, int64_t columns, int64_t stages) {
  const int64_t tiles = panels_of<MmaPolicy>(rows) * panels_of<MmaPolicy>(columns);
  return std::max<int64_t>(1, std::min(ceil_div(kTargetBlocks, tiles), stages / kMinSplitStages));
}

enum class Update { kOverwrite, kAccumulate };

template <class MmaPolicy>
void launch_gemm(const GradientGemm<MmaPolicy>& gemm, const GradientGemmWeights<typename MmaPolicy::acc_t>& weights,
                 int64_t first_depth, Update update, typename MmaPolicy::acc_t* out, const Stream& stream) {
  using acc_t = typename MmaPolicy::acc_t;
  if (weights.count == 0 || gemm.depth == 0) return;
  if (weights.exponent)
    launch("weight_exponents", weight_exponents_kernel<acc_t>,
           {ceil_div(weights.count, kTileThreads / 32), kTileThreads}, stream, weights);
  const int64_t stages = stages_of<MmaPolicy>(weights.depth);
  const Grid packing{panels_of<MmaPolicy>(weights.count) * stages, kTileThreads};
  const auto pack_kernel = weights.depth_step == 1 ? pack_weights_kernel<MmaPolicy, ThreadOrder::kDepthFirst>
                                                   : pack_weights_kernel<MmaPolicy, ThreadOrder::kRowFirst>;
  launch("pack_weights", pack_kernel, packing, stream, weights, gemm.weights);
  const GradientGemmOperands operands{
      .weights = gemm.weights,
      .rows = gemm.rows + first_depth / MmaPolicy::kStageDepth * MmaPolicy::kStageBytes,
      .weight_panel = panel_bytes<MmaPolicy>(weights.depth),
      .row_panel = panel_bytes<MmaPolicy>(gemm.count),
      .stages = stages,
  };
  const GradientGemmOut<acc_t> target{
      .out = out,
      .rows = weights.count,
      .columns = gemm.depth,
      .exponent = weights.exponent,
      .adds = update == Update::kAccumulate,
      .partial = gemm.partial,
      .num_splits = splits_for<MmaPolicy>(weights.count, gemm.depth, stages),
  };
  launch("gradient_gemm", gradient_gemm_kernel<MmaPolicy>,
         {panels_of<MmaPolicy>(weights.count) * panels_of<MmaPolicy>(gemm.depth) * target.num_splits, kTileThreads,
          MmaPolicy::kSharedBytes},
         stream, operands, target);
  if (target.num_splits == 1) return;
  launch("reduce_splits", reduce_splits_kernel<acc_t>,
         {ceil_div(weights.count * gemm.depth, kReduceThreads), kReduceThreads}, stream, target);
}

// The weights of a strip, not transposed.
template <class MmaPolicy>
GradientGemmWeights<typename MmaPolicy::acc_t> untransposed(const GradientGemm<MmaPolicy>& gemm,
                                                            const WeightStrip<typename MmaPolicy::acc_t>& strip) {
  return {
      .weight = strip.weight,
      .count = strip.rows,
      .depth = strip.columns,
      .row_step = strip.columns,
      .depth_step = 1,
      .norm = gemm.norm,
      .exponent = gemm.exponent,
  };
}

}  // namespace

template <class MmaPolicy, class Scalar>
GradientGemm<MmaPolicy> make_gradient_gemm(const GradientGemmRows<Scalar, typename MmaPolicy::acc_t>& rows,
                                           const GradientGemmPlan& planned, Workspace& workspace,
                                           const Stream& stream) {
  using acc_t = typename MmaPolicy::acc_t;
  static_assert(kStripAlignment % MmaPolicy::kStageDepth == 0);
  GradientGemm<MmaPolicy> out{};
  out.count = rows.count;
  out.depth = rows.depth;
  char* panels = workspace.array<char>(panels_of<MmaPolicy>(rows.depth) * panel_bytes<MmaPolicy>(rows.count));
  launch("pack_transposed_rows", pack_transposed_rows_kernel<MmaPolicy, Scalar>,
         {panels_of<MmaPolicy>(rows.depth) * stages_of<MmaPolicy>(rows.count), kTileThreads}, stream, rows, panels);
  out.rows = panels;
  if (kTwoBytes<MmaPolicy>) out.norm = rows.norm;
  // Sized for the larger of both kinds of product. Fewer rows, as in the last strip, may be multiplied in more splits.
  int64_t max_rows = 0, weight_bytes = 0, partials = 0;
  const auto allow = [&](int64_t count, int64_t depth) {
    if (count == 0 || rows.depth == 0) return;
    max_rows = std::max(max_rows, count);
    weight_bytes = std::max(weight_bytes, panels_of<MmaPolicy>(count) * panel_bytes<MmaPolicy>(depth));
    for (int64_t panels = 1; panels <= panels_of<MmaPolicy>(count); ++panels) {
      const int64_t rows_of_panels = std::min<int64_t>(panels * MmaPolicy::kTile, count);
      const int64_t num_splits = splits_for<MmaPolicy>(rows_of_panels, rows.depth, stages_of<MmaPolicy>(depth));
      if (num_splits > 1) partials = std::max(partials, num_splits * rows_of_panels * rows.depth);
    }
  };
  if (planned.untransposed) allow(planned.strip_rows, rows.count);
  allow(planned.transposed_columns, planned.strip_rows);
  out.weights = workspace.array<char>(weight_bytes);
  out.partial = workspace.array<acc_t>(partials);
  if (kShortRange<MmaPolicy>) out.exponent = workspace.array<int32_t>(max_rows);
  return out;
}

template <class MmaPolicy>
void gradient_gemm(const GradientGemm<MmaPolicy>& gemm, const WeightStrip<typename MmaPolicy::acc_t>& strip,
                   typename MmaPolicy::acc_t* out, const Stream& stream) {
  launch_gemm<MmaPolicy>(gemm, untransposed(gemm, strip), 0, Update::kOverwrite, out, stream);
}

template <class MmaPolicy>
void gradient_gemm_accumulate(const GradientGemm<MmaPolicy>& gemm, const WeightStrip<typename MmaPolicy::acc_t>& strip,
                              typename MmaPolicy::acc_t* out, const Stream& stream) {
  launch_gemm<MmaPolicy>(gemm, untransposed(gemm, strip), 0, Update::kAccumulate, out, stream);
}

template <class MmaPolicy>
void gradient_gemm_transposed_accumulate(const GradientGemm<MmaPolicy>& gemm,
                                         const WeightStrip<typename MmaPolicy::acc_t>& strip, int64_t first_row,
                                         typename MmaPolicy::acc_t* out, const Stream& stream) {
  launch_gemm<MmaPolicy>(gemm,
                         {
                             .weight = strip.weight,
                             .count = strip.columns,
                             .depth = strip.rows,
                             .row_step = 1,
                             .depth_step = strip.columns,
                             .norm = gemm.norm ? gemm.norm + first_row : nullptr,
                             .exponent = gemm.exponent,
                         },
                         first_row, Update::kAccumulate, out, stream);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(make_gradient_gemm<MmaPolicy, Scalar>) make_gradient_gemm<MmaPolicy, Scalar>;
HARDMINE_INSTANTIATE(Bfloat16Products, BFloat16)
HARDMINE_INSTANTIATE(Float16Products, Float16)
HARDMINE_INSTANTIATE(Tf32Products, float)
HARDMINE_INSTANTIATE(FloatProducts, float)
HARDMINE_INSTANTIATE(FloatProducts, BFloat16)
HARDMINE_INSTANTIATE(FloatProducts, Float16)
HARDMINE_INSTANTIATE(DoubleProducts, double)
#undef HARDMINE_INSTANTIATE

#define HARDMINE_INSTANTIATE(MmaPolicy)                                                       \
  template decltype(gradient_gemm<MmaPolicy>) gradient_gemm<MmaPolicy>;                       \
  template decltype(gradient_gemm_accumulate<MmaPolicy>) gradient_gemm_accumulate<MmaPolicy>; \
  template decltype(gradient_gemm_transposed_accumulate<MmaPolicy>) gradient_gemm_transposed_accumulate<MmaPolicy>;
HARDMINE_INSTANTIATE(Bfloat16Products)
HARDMINE_INSTANTIATE(Float16Products)
HARDMINE_INSTANTIATE(Tf32Products)
HARDMINE_INSTANTIATE(FloatProducts)
HARDMINE_INSTANTIATE(DoubleProducts)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
