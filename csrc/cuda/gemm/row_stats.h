// Norms of a matrix's rows, and whether they are finite.
#pragma once

#include <cmath>

#include "core/int_math.h"
#include "core/similarity.h"
#include "cuda/device/collectives.h"

namespace hardmine::cuda {

// Rows that share a flag.
inline constexpr int kFiniteFlagRows = 16;
HARDMINE_HD int64_t finite_flag_count(int64_t count) { return ceil_div(count, kFiniteFlagRows); }

// The flags of some matrices; a null pointer stands for finite rows.
template <int kMatrices>
struct FiniteFlags {
  const int32_t* flags[kMatrices];  // [count] each
  int64_t count[kMatrices];

  // All threads of a block call it, and get the same answer.
  __device__ __forceinline__ bool block_any_nonfinite() const {
    bool has_nonfinite = false;
    for (int m = 0; m < kMatrices; ++m)
      if (flags[m]) has_nonfinite |= cuda::block_any_nonfinite(flags[m], count[m]);
    return has_nonfinite;
  }
};

// The norm of a row, computed by a warp. Infinite where the square overflows.
template <class acc_t, class Scalar>
__device__ __forceinline__ acc_t warp_row_norm(const Scalar* row, int64_t depth) {
  acc_t sum = 0;
  for (int64_t k = lane_index(); k < depth; k += 32) {
    const acc_t x = to_acc(row[k]);
    sum = fma(x, x, sum);
  }
  return std::sqrt(warp_reduce_sum(sum));
}

template <class acc_t>
HARDMINE_HD bool is_finite(acc_t x) {
  return x - x == acc_t(0);
}
// Clamped from below, so that rows can be divided by it. NaN stays NaN.
template <class acc_t>
HARDMINE_HD acc_t clamped_norm(acc_t norm) {
  return norm <= acc_t(kMinNorm) ? acc_t(kMinNorm) : norm;
}

// One element of the gradient of x through u = x / |x|: with g the gradient of u and radial = g u, it is
// (g - radial u) / |x|. Not in core: the CPU's row kernel `project` has other bits, because it multiplies x by
// radial / |x| and fuses the subtraction.
template <class acc_t>
__device__ __forceinline__ acc_t projected(acc_t gradient, acc_t unit, acc_t radial, acc_t norm) {
  return (gradient - unit * radial) / norm;
}

// Calls use(r, norm) for the rows of a group that are below `count`, by all lanes of a warp; r is the row's place in
// the group. True in all threads of the block if some norm is not finite.
template <class acc_t, class Scalar, class Use>
__device__ __forceinline__ bool block_group_norms(const Scalar* x, int64_t group, int64_t count, int64_t depth,
                                                  int warps, const Use& use) {
  bool has_nonfinite = false;
  for (int r = warp_index(); r < kFiniteFlagRows; r += warps) {
    const int64_t row = group * kFiniteFlagRows + r;
    if (row >= count) continue;
    const acc_t norm = warp_row_norm<acc_t>(x + row * depth, depth);
    has_nonfinite |= !is_finite(norm);
    use(r, norm);
  }
  return __syncthreads_or(has_nonfinite);
}

// A matrix, and what compute_row_stats() writes about its rows.
template <class Scalar, class acc_t>
struct RowStats {
  const Scalar* x;  // [count, depth]
  int64_t count, depth;
  acc_t* norm;               // [count], clamped from below; null: not needed
  int32_t* finite;           // [finite_flag_count(count)]: whether the rows of a group, and their norms, are finite
  int64_t* incidence_count;  // [count], set to 0; null: not needed
};

// All threads of the grid call it.
template <class Scalar, class acc_t>
__device__ __forceinline__ void compute_row_stats(const RowStats<Scalar, acc_t>& rows) {
  for (int64_t group = blockIdx.x; group < finite_flag_count(rows.count); group += gridDim.x) {
    const bool has_nonfinite =
        block_group_norms<acc_t>(rows.x, group, rows.count, rows.depth, warps_per_block(), [&](int r, acc_t norm) {
          const int64_t row = group * kFiniteFlagRows + r;
          if (lane_index() == 0 && rows.norm) rows.norm[row] = clamped_norm(norm);
          if (lane_index() == 0 && rows.incidence_count) rows.incidence_count[row] = 0;
        });
    if (threadIdx.x == 0) rows.finite[group] = !has_nonfinite;
  }
}

}  // namespace hardmine::cuda
