#include "cuda/gemm/packed_matrix.h"

#include "cuda/gemm/row_stats.h"

namespace hardmine::cuda {
namespace {

// True if products are multiplied by inverse norms, instead of dividing the rows by their norms.
template <class MmaPolicy>
constexpr bool kScalesProducts = sizeof(typename MmaPolicy::Packed) == 2;

__device__ __forceinline__ void store(char* target, BFloat16 x) { *reinterpret_cast<BFloat16*>(target) = x; }
__device__ __forceinline__ void store(char* target, Float16 x) { *reinterpret_cast<Float16*>(target) = x; }
__device__ __forceinline__ void store(char* target, float x) { *reinterpret_cast<float*>(target) = x; }
__device__ __forceinline__ void store(char* target, double x) { *reinterpret_cast<double*>(target) = x; }

// Packs x, or x / norm if `divides`.
template <class MmaPolicy, class Scalar>
__device__ __forceinline__ void store_packed(char* target, Scalar x, typename MmaPolicy::acc_t norm, bool divides) {
  if constexpr (kScalesProducts<MmaPolicy>) {
    store(target, x);
  } else {
    typename MmaPolicy::acc_t value = to_acc(x);
    if (divides) value /= norm;
    if constexpr (MmaPolicy::kTensorCores) {
      *reinterpret_cast<uint32_t*>(target) = round_to_tf32(value);
    } else {
      store(target, value);
    }
  }
}

// Each block packs groups of kFiniteFlagRows rows; rows past the end are zeros.
template <class MmaPolicy, class Scalar>
__global__ void __launch_bounds__(kTileThreads, 4)
    pack_matrix_kernel(const Scalar* x, bool normalized, PackedMatrix<MmaPolicy> out,
                       SelectionStart<typename MmaPolicy::acc_t> start) {
  using acc_t = typename MmaPolicy::acc_t;
  constexpr int kWarps = kTileThreads / 32;
  const bool hyperbolic = MmaPolicy::kSquaredDifferences && out.factor;  // the only factors of squared differences
  const int64_t depth = hyperbolic ? out.depth - 1 : out.depth;          // without the gap
  acc_t* norm = reinterpret_cast<acc_t*>(shared_memory());               // [kFiniteFlagRows]
  const int64_t groups = panels_of<MmaPolicy>(out.count) * (MmaPolicy::kTile / kFiniteFlagRows);
  const int64_t padded_depth = stages_of<MmaPolicy>(out.depth) * MmaPolicy::kStageDepth;
  if (start.blocks_done && blockIdx.x == 0 && threadIdx.x == 0) *start.blocks_done = 0;
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t first = group * kFiniteFlagRows;
    const bool has_nonfinite = block_group_norms<acc_t>(
        x, group, out.count, out.depth, kWarps, [&](int r, acc_t unclamped) { norm[r] = clamped_norm(unclamped); });
    if (threadIdx.x == 0 && first < out.count) out.finite[group] = !has_nonfinite;
    if (threadIdx.x < kFiniteFlagRows && first + threadIdx.x < out.count) {
      const int64_t row = first + threadIdx.x;
      if (hyperbolic) {
        out.factor[row] = hyperbolic_factor<acc_t>(to_acc(x[(row + 1) * out.depth - 1]));
      } else if (out.factor) {
        out.factor[row] = acc_t(1) / norm[threadIdx.x];
      }
#pragma unroll
      for (int s = 0; s < SelectionStart<acc_t>::kMaxSelections; ++s)
        if (start.best[s]) start.best[s][row] = start.value[s];
    }
    char* panel = out.panels + first / MmaPolicy::kTile * panel_bytes<MmaPolicy>(out.depth);
    const int first_in_panel = static_cast<int>(first % MmaPolicy::kTile);
    for (int64_t i = threadIdx.x; i < kFiniteFlagRows * padded_depth; i += kTileThreads) {
      // Neighboring threads write neighboring elements: of a row for tensor cores, of a column for SIMT.
      const int r = static_cast<int>(MmaPolicy::kTensorCores ? i / padded_depth : i % kFiniteFlagRows);
      const int64_t k = MmaPolicy::kTensorCores ? i % padded_depth : i / kFiniteFlagRows;
      const bool inside = first + r < out.count && k < depth;
      const Scalar value = inside ? x[(first + r) * out.depth + k] : Scalar{};
      store_packed<MmaPolicy>(panel + MmaPolicy::offset(first_in_panel + r, k), value, inside ? norm[r] : acc_t(1),
                              normalized);
    }
    __syncthreads();  // before the norms of the next group
  }
}

}  // namespace

template <class MmaPolicy, class Scalar>
PackedMatrix<MmaPolicy> pack_matrix(const Scalar* x, int64_t count, int64_t depth, const PairMeasure& measure,
                                    Workspace& workspace, const Stream& stream,
                                    const SelectionStart<typename MmaPolicy::acc_t>& start) {
  using acc_t = typename MmaPolicy::acc_t;
  PackedMatrix<MmaPolicy> out{};
  out.count = count;
  out.depth = depth;
  out.panels = workspace.array<char>(panels_of<MmaPolicy>(count) * panel_bytes<MmaPolicy>(depth));
  out.finite = workspace.array<int32_t>(finite_flag_count(count));
  const bool scales_products = measure.normalized && kScalesProducts<MmaPolicy>;
  if (scales_products || is_hyperbolic(measure)) out.factor = workspace.array<acc_t>(count);
  const int64_t blocks = panels_of<MmaPolicy>(count) * (MmaPolicy::kTile / kFiniteFlagRows);
  launch("pack_matrix", pack_matrix_kernel<MmaPolicy, Scalar>, {blocks, kTileThreads, kFiniteFlagRows * sizeof(acc_t)},
         stream, x, measure.normalized, out, start);
  return out;
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(pack_matrix<MmaPolicy, Scalar>) pack_matrix<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
