// The matrix product of the gradient: weights of a block's pairs times the rows of the other operand.
//
// Values and gradients are in panels of depth, so that a panel's rows of one block stay in the first-level cache while
// all micro-tiles use them. The sum of each block starts from zero and is then added to the gradient, which keeps the
// rounding error of long sums small. Every SIMD target adds in the order of the block's columns (or rows).
#pragma once

#include <cstdint>

#include "core/int_math.h"
#include "cpu/simd/gradient_gemm_table.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/pack.h"
#include "cpu/simd/switch_bools.h"
#include "cpu/simd/tile_engine.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// out[r] += sum over k of weight(r, k) value[k], or of weight(r, k) (value[k] - row_value[r]), for the rows of one
// micro-tile and one panel of depth. weight(r, k) is weights[r * kRowStep + k * kTermStep].
template <int64_t kRowStep, int64_t kTermStep, bool kDifference, class T>
inline __attribute__((always_inline)) void gradient_gemm_tile(const T* weights, const T* value, int64_t terms,
                                                              const T* row_value, T* out) {
  using V = Vec<T>;
  V acc[kMicroTileRows][kColumnVecs];
#pragma GCC unroll 16
  for (int64_t r = 0; r < kMicroTileRows; ++r)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kColumnVecs; ++v) acc[r][v] = V::zero();
  for (int64_t k = 0; k < terms; ++k) {
    V column[kColumnVecs];
#pragma GCC unroll 16
    for (int64_t v = 0; v < kColumnVecs; ++v) column[v] = V::load(value + k * kPanel<T> + v * V::kLanes);
#pragma GCC unroll 16
    for (int64_t r = 0; r < kMicroTileRows; ++r) {
      const V weight = V::broadcast(weights + r * kRowStep + k * kTermStep);
#pragma GCC unroll 16
      for (int64_t v = 0; v < kColumnVecs; ++v) {
        if constexpr (kDifference) {
          acc[r][v] = fma(weight, column[v] - V::load(row_value + r * kPanel<T> + v * V::kLanes), acc[r][v]);
        } else {
          acc[r][v] = fma(weight, column[v], acc[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kMicroTileRows; ++r)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kColumnVecs; ++v) {
      T* sum = out + r * kPanel<T> + v * V::kLanes;
      (V::load(sum) + acc[r][v]).store(sum);
    }
}

template <int64_t kRowStep, int64_t kTermStep, bool kDifference, class T>
void gradient_gemm_panels(const T* weights, int64_t rows, int64_t terms, int64_t depth, const T* value,
                          int64_t value_padded, const T* row_value, T* grad, int64_t grad_padded) {
  for (int64_t k = 0; k < depth; k += kPanel<T>) {
    for (int64_t r = 0; r < rows; r += kMicroTileRows)
      gradient_gemm_tile<kRowStep, kTermStep, kDifference>(weights + r * kRowStep, value, terms,
                                                           row_value + r * kPanel<T>, grad + r * kPanel<T>);
    value += value_padded * kPanel<T>;
    grad += grad_padded * kPanel<T>;
    if constexpr (kDifference) row_value += grad_padded * kPanel<T>;
  }
}

template <class T>
void gradient_gemm(const Block& block, const T* weights, bool transposed, int64_t depth, const T* value,
                   int64_t value_padded, const T* row_value, T* grad, int64_t grad_padded) {
  using Function = void (*)(const T*, int64_t, int64_t, int64_t, const T*, int64_t, const T*, T*, int64_t);
  const Function function = switch_bools(
      []<bool kTransposed, bool kDifference>() -> Function {
        return gradient_gemm_panels < kTransposed ? 1 : kMaxBlockColumns, kTransposed ? kMaxBlockColumns : 1,
               kDifference, T > ;
      },
      transposed, row_value != nullptr);
  const int64_t rows = transposed ? block.columns() : block.rows(), terms = transposed ? block.rows() : block.columns();
  function(weights, rows, terms, depth, value, value_padded, row_value ? row_value : value, grad, grad_padded);
}

// Sets the padding of a block's weights to zero: weights are read in whole micro-tile rows, along rows and columns.
template <class T>
inline void pad_weights(const Block& block, T* weights) {
  const int64_t rows = round_up(block.rows(), kMicroTileRows), columns = round_up(block.columns(), kMicroTileRows);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t c = i < block.rows() ? block.columns() : 0; c < columns; ++c) weights[i * kMaxBlockColumns + c] = T(0);
}

HARDMINE_PROVIDE_KERNELS(GradientKernels, .pack_depth = pack_depth<T>, .gradient_gemm = gradient_gemm<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
