// Norms, finite flags and zeroed counters of a matrix's rows.
#pragma once

#include "cuda/gemm/row_norms.h"

namespace hardmine::cuda {

template <class Scalar, class acc_t>
struct RowStats {
  const Scalar* x;
  int64_t count, depth;
  acc_t* norm;               // [count], clamped from below; null: not needed
  int32_t* finite;           // [finite_flag_count(count)]
  int64_t* incidence_count;  // [count], set to 0; null: not needed
};

// Called by all threads of the grid.
template <class Scalar, class acc_t>
__device__ __forceinline__ void compute_row_stats(const RowStats<Scalar, acc_t>& rows) {
  for (int64_t group = blockIdx.x; group < finite_flag_count(rows.count); group += gridDim.x) {
    bool has_nonfinite = false;
    for (int r = warp_index(); r < kFiniteFlagRows; r += warps_per_block()) {
      const int64_t row = group * kFiniteFlagRows + r;
      if (row >= rows.count) continue;
      const acc_t norm = warp_row_norm<acc_t>(rows.x + row * rows.depth, rows.depth);
      has_nonfinite |= !is_finite(norm);
      if (lane_index() == 0 && rows.norm) rows.norm[row] = clamped_norm(norm);
      if (lane_index() == 0 && rows.incidence_count) rows.incidence_count[row] = 0;
    }
    has_nonfinite = __syncthreads_or(has_nonfinite);
    if (threadIdx.x == 0) rows.finite[group] = !has_nonfinite;
  }
}

}  // namespace hardmine::cuda
