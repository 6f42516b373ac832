// Rows in panels of depth, the layout of values and gradients in cpu/simd/gradient_gemm.h.
#pragma once

#include <algorithm>

#include "cpu/engine/rows.h"
#include "cpu/simd/gradient_gemm_table.h"

namespace hardmine::cpu {

// The number of elements of `padded` rows.
template <class T>
int64_t panel_elements(int64_t padded, int64_t depth) {
  return padded * round_up(depth, kernels<TileKernels<T>>().panel_columns);
}

inline int64_t element_threads(const ThreadPool& pool, int64_t count, int64_t depth) {
  return thread_count_for(pool, static_cast<double>(count) * static_cast<double>(depth), kElementGrain);
}

template <class T>
Buffer<T> zero_panels(int64_t padded, int64_t depth, const ThreadPool& pool) {
  const int64_t size = panel_elements<T>(padded, depth);
  Buffer<T> out(size);
  constexpr int64_t kElementsPerChunk = 1 << 20;
  parallel_range(
      pool, element_threads(pool, padded, depth), size, 1,
      [&](int64_t begin, int64_t end) { std::fill(out.get() + begin, out.get() + end, T(0)); }, kElementsPerChunk);
  return out;
}

// The kernel also reads the rows that pad the last micro-tile, so they must be finite.
template <class T>
Buffer<T> packed_panels(const SortedRows<T>& rows, const T* x, const T* norm, int64_t padded, int64_t depth,
                        const ThreadPool& pool) {
  const GradientKernels<T>& kernel = kernels<GradientKernels<T>>();
  const int64_t panel = kernels<TileKernels<T>>().panel_columns;
  Buffer<T> out(panel_elements<T>(padded, depth));
  parallel_range(pool, element_threads(pool, rows.count(), depth), rows.count(), 1, [&](int64_t begin, int64_t end) {
    kernel.pack_depth(x, depth, rows.permutation().data(), norm, padded, begin, end, out.get());
  });
  for (int64_t k = 0; k < depth; k += panel)
    std::fill(out.get() + k * padded + rows.count() * panel, out.get() + (k + panel) * padded, T(0));
  return out;
}

// Writes the gradient of x[source], from row r of panels of gradients of normalized rows, times `factor`. Without
// `norm`, rows are not normalized.
template <class T>
void write_gradient_row(const T* panels, int64_t padded, int64_t r, const T* x, const T* norm, int64_t source,
                        int64_t depth, T factor, T* grad) {
  const int64_t panel = kernels<TileKernels<T>>().panel_columns;
  T* out = grad + source * depth;
  for (int64_t k = 0; k < depth; k += panel)
    std::copy_n(panels + k * padded + r * panel, std::min(panel, depth - k), out + k);
  if (factor != T(1))
    for (int64_t k = 0; k < depth; ++k) out[k] *= factor;
  if (norm) project(kernels<RowKernels<T>>(), out, x + source * depth, norm[source], depth);
}

// The same of all rows.
template <class T>
void write_gradient_rows(const T* panels, int64_t padded, const SortedRows<T>& rows, const T* x, const T* norm,
                         int64_t depth, T factor, const ThreadPool& pool, T* grad) {
  parallel_range(pool, element_threads(pool, rows.count(), depth), rows.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      write_gradient_row(panels, padded, r, x, norm, rows.permutation()[r], depth, factor, grad);
  });
}

}  // namespace hardmine::cpu
