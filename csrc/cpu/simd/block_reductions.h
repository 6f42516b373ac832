// Sums over the lines and columns of a block.
#pragma once

#include "cpu/simd/block.h"
#include "cpu/simd/row_kernels.h"
#include "cpu/simd/vec_math.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Sums along lines are kept in kPartials lanes and added up in one order, sums along columns in one number a column, so
// that all targets agree. They are short, and are then added to sums in double.
template <class T>
struct ColumnSums {
  alignas(64) T part[kMaxBlockColumns] = {};

  void add(int64_t c, Vec<T> value) { (Vec<T>::load(part + c) + value).store(part + c); }
  void flush(const Block& block, double* sum) const {
    for (int64_t c = 0; c < block.columns(); ++c) sum[block.column_begin + c] += static_cast<double>(part[c]);
  }
};

// The sum of value(c) over a line, where value(c) gives the vector at column c and is asked for in ascending order.
template <class T, class Value>
inline T sum_of_row(int64_t width, const Value& value) {
  using V = Vec<T>;
  const T no_tail[kPartials] = {};
  Partials<T> partials;
  for (int64_t c = 0; c < width; c += kPartials)
#pragma GCC unroll 16
    for (int64_t v = 0; v < Partials<T>::kVecs; ++v) partials.sum[v] = partials.sum[v] + value(c + v * V::kLanes);
  return partials.total(no_tail);
}

}  // namespace hardmine::cpu::HARDMINE_TARGET
