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

// Terms [begin, end) of a micro-tile: those outside have weight 0.
struct TermRange {
  int64_t begin, end;
};

// Whether the weights of some terms of a micro-tile, from `first` on, are all 0: of a vector of terms, or of one term.
// NaN is not 0.
template <int64_t kRowStep, int64_t kTermStep, class T>
inline bool all_zero(const T* weights, int64_t first) {
  using V = Vec<T>;
  if constexpr (kTermStep == 1) {
    constexpr uint32_t kAll = (1u << V::kLanes) - 1;
    for (int64_t r = 0; r < kMicroTileRows; ++r) {
      const V weight = V::load(weights + r * kRowStep + first);
      if (((weight >= V::zero()) & (weight <= V::zero())).bits() != kAll) return false;
    }
  } else {
    for (int64_t r = 0; r < kMicroTileRows; ++r)
      if (weights[r * kRowStep + first * kTermStep] != T(0)) return false;
  }
  return true;
}

// The terms that count for a micro-tile. Batches of small classes have few pairs of one class. A term of weight 0 does
// not change a sum, because values are finite.
template <int64_t kRowStep, int64_t kTermStep, class T>
inline TermRange nonzero_terms(const T* weights, int64_t terms) {
  constexpr int64_t kStep = kTermStep == 1 ? Vec<T>::kLanes : 1;
  int64_t begin = 0, end = terms;
  while (end - begin >= kStep && all_zero<kRowStep, kTermStep>(weights, begin)) begin += kStep;
  while (end - begin >= kStep && all_zero<kRowStep, kTermStep>(weights, end - kStep)) end -= kStep;
  return {begin, end};
}

template <int64_t kRowStep, int64_t kTermStep, bool kDifference, class T>
void gradient_gemm_panels(const T* weights, int64_t rows, int64_t terms, int64_t depth, const T* value,
                          int64_t value_padded, const T* row_value, T* grad, int64_t grad_padded) {
  TermRange range[kMaxBlockColumns / kMicroTileRows];
  for (int64_t r = 0; r < rows; r += kMicroTileRows)
    range[r / kMicroTileRows] = nonzero_terms<kRowStep, kTermStep>(weights + r * kRowStep, terms);
  for (int64_t k = 0; k < depth; k += kPanel<T>) {
    for (int64_t r = 0; r < rows; r += kMicroTileRows) {
      const auto [begin, end] = range[r / kMicroTileRows];
      if (begin >= end) continue;
      gradient_gemm_tile<kRowStep, kTermStep, kDifference>(weights + r * kRowStep + begin * kTermStep,
                                                           value + begin * kPanel<T>, end - begin,
                                                           row_value + r * kPanel<T>, grad + r * kPanel<T>);
    }
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
