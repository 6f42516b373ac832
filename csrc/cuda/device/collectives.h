// Collective operations of a block. Sums are always added in the same order.
#pragma once

#include "cuda/gemm/row_norms.h"

namespace hardmine::cuda {

inline constexpr int kMaxWarps = 32;

// Sums `count` values per thread over the block; thread 0 gets the totals. `shared`: [kMaxWarps * count].
template <int count, class acc_t>
__device__ __forceinline__ void block_reduce_sum(acc_t* sum, acc_t* shared) {
#pragma unroll
  for (int s = 0; s < count; ++s) {
    sum[s] = warp_reduce_sum(sum[s]);
    if (lane_index() == 0) shared[s * kMaxWarps + warp_index()] = sum[s];
  }
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int s = 0; s < count; ++s) {
      sum[s] = 0;
      for (int w = 0; w < warps_per_block(); ++w) sum[s] += shared[s * kMaxWarps + w];
    }
  }
  __syncthreads();
}

// True in the block that arrives last, which then sees what all other blocks wrote before. *blocks_done starts at 0.
__device__ __forceinline__ bool is_last_block(int32_t* blocks_done) {
  if (gridDim.x == 1) return true;
  __threadfence();
  __syncthreads();
  const bool last = threadIdx.x == 0 && atomicAdd(blocks_done, 1) == static_cast<int32_t>(gridDim.x - 1);
  const bool is_last = __syncthreads_or(last);
  __threadfence();
  return is_last;
}

// True in all threads if some flag is 0, that is, if some group of rows has a non-finite row.
__device__ __forceinline__ bool block_any_nonfinite(const int32_t* finite, int64_t groups) {
  bool has_nonfinite = false;
  for (int64_t i = threadIdx.x; i < groups; i += blockDim.x) has_nonfinite |= finite[i] == 0;
  return __syncthreads_or(has_nonfinite);
}

}  // namespace hardmine::cuda
