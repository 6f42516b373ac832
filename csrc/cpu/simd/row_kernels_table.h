// Norms and distances of rows, and the sums of the backward pass.
#pragma once

#include <cstdint>

namespace hardmine::cpu {

template <class T>
struct RowKernels {
  // out[i] = |x_i| for x [count, depth]. Returns false if some norm is not finite.
  bool (*row_norms)(const T* x, int64_t count, int64_t depth, T* out);

  // out = the sum of weight[i] rows[i] over i in [0, count), added in this order.
  void (*weighted_sum)(const T* const* rows, const T* weight, int64_t count, int64_t depth, T* out);
  // acc += weight (y - x).
  void (*add_scaled_difference)(T* acc, T weight, const T* y, const T* x, int64_t depth);
  T (*distance)(const T* x, const T* y, int64_t depth);
  T (*squared_distance)(const T* x, const T* y, int64_t depth);
  T (*dot)(const T* x, const T* y, int64_t depth);

  // out[i] = the squared distance of the query and row rows[i] of x. Rows have `stride` elements, a multiple of 16.
  void (*squared_distances)(const T* query, const T* x, int64_t stride, const uint32_t* rows, int64_t count, T* out);

  // acc[k] = (acc[k] - x[k] / norm * radial) / norm, the gradient through x / |x|. radial = acc . x / norm.
  void (*project)(T* acc, const T* x, T norm, T radial, int64_t depth);
};

}  // namespace hardmine::cpu
