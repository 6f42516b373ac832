// Sums over the rows and columns of a block.
#pragma once

#include "cpu/simd/block.h"
#include "cpu/simd/row_kernels.h"
#include "cpu/simd/vec_math.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Sums over the columns of a block, one partial sum per column. Sums over rows have kPartials partial sums, added up in
// a fixed order. So all targets agree. The sums of blocks are added up in double.
template <class T>
struct ColumnSums {
  alignas(64) T part[kMaxBlockColumns] = {};

  void add(int64_t c, Vec<T> value) { (Vec<T>::load(part + c) + value).store(part + c); }
  void flush(const Block& block, double* sum) const {
    for (int64_t c = 0; c < block.columns(); ++c) sum[block.column_begin + c] += static_cast<double>(part[c]);
  }
};

// The sum of value(c) over a row, where value(c) is the vector at column c. It is called in ascending order.
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
