// Norms of rows, and whether they are finite.
#pragma once

#include <cmath>

#include "cuda/gemm/packed_matrix.h"

namespace hardmine::cuda {

// The sum over a warp, with the same bits in every lane.
template <class acc_t>
__device__ __forceinline__ acc_t warp_reduce_sum(acc_t value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kFullWarp, value, mask);
  return value;
}

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
  return norm <= acc_t(kSmallestNorm) ? acc_t(kSmallestNorm) : norm;
}

}  // namespace hardmine::cuda
