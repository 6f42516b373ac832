// Norms of rows, and whether they are finite.
#pragma once

#include <cmath>

#include "cuda/gemm/packed_rows.h"

namespace hardmine::cuda {

// The sum over a warp, the same bits in every lane.
template <class Number>
__device__ __forceinline__ Number sum_of_warp(Number value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kFullWarp, value, mask);
  return value;
}

// The norm of a row, computed by a warp. Overflows where its square does.
template <class Number, class Scalar>
__device__ __forceinline__ Number norm_of_row(const Scalar* row, int64_t depth) {
  Number sum = 0;
  for (int64_t k = lane_index(); k < depth; k += 32) {
    const Number x = to_number(row[k]);
    sum = fma(x, x, sum);
  }
  return std::sqrt(sum_of_warp(sum));
}

template <class Number>
HARDMINE_HD bool is_finite(Number x) {
  return x - x == Number(0);
}
// What a row is divided by. NaN stays NaN.
template <class Number>
HARDMINE_HD Number clamped_norm(Number norm) {
  return norm <= Number(kSmallestNorm) ? Number(kSmallestNorm) : norm;
}

}  // namespace hardmine::cuda
