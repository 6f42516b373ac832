// Collective operations of a warp, a block and a grid. All threads of it call them. Sums are always added in the same
// order.
#pragma once

#include "cuda/device/device.h"

namespace hardmine::cuda {

inline constexpr int kMaxWarps = 32;  // per block

// The sum over a warp, with the same bits in every lane.
template <class T>
__device__ __forceinline__ T warp_reduce_sum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kFullWarp, value, mask);
  return value;
}

// The sum over this lane and the lanes below.
template <class T>
__device__ __forceinline__ T warp_inclusive_sum(T value) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const T below = __shfl_up_sync(kFullWarp, value, step);
    if (lane_index() >= step) value += below;
  }
  return value;
}

// The number of lanes below with `selected`, and in *count the number of all lanes with it.
__device__ __forceinline__ int warp_compact(bool selected, int* count) {
  const uint32_t bits = __ballot_sync(kFullWarp, selected);
  *count = __popc(bits);
  return __popc(bits & ((1u << lane_index()) - 1));
}

// Sums kCount values per thread over the block; thread 0 gets the totals. `shared`: [kMaxWarps * kCount].
template <int kCount, class T>
__device__ __forceinline__ void block_reduce_sum(T* sum, T* shared) {
#pragma unroll
  for (int s = 0; s < kCount; ++s) {
    sum[s] = warp_reduce_sum(sum[s]);
    if (lane_index() == 0) shared[s * kMaxWarps + warp_index()] = sum[s];
  }
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int s = 0; s < kCount; ++s) {
      sum[s] = 0;
      for (int w = 0; w < warps_per_block(); ++w) sum[s] += shared[s * kMaxWarps + w];
    }
  }
  __syncthreads();
}

// The same; all threads get the totals.
template <int kCount, class T>
__device__ __forceinline__ void block_all_reduce_sum(T* sum, T* shared) {
  block_reduce_sum<kCount>(sum, shared);
  if (threadIdx.x == 0)
    for (int s = 0; s < kCount; ++s) shared[s] = sum[s];
  __syncthreads();
#pragma unroll
  for (int s = 0; s < kCount; ++s) sum[s] = shared[s];
  __syncthreads();  // before `shared` is reused
}

// Sums `count` vectors of kCount partial sums, in the order of block_reduce_sum; thread 0 gets the totals.
template <int kCount, class Partial>
__device__ __forceinline__ void block_reduce_partials(const Partial* partial, int64_t count, double* sum,
                                                      double* shared) {
#pragma unroll
  for (int s = 0; s < kCount; ++s) sum[s] = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x)
#pragma unroll
    for (int s = 0; s < kCount; ++s) sum[s] += static_cast<double>(partial[i * kCount + s]);
  block_reduce_sum<kCount>(sum, shared);
}

// The sum over the warps below of one value per warp, which lane `source` holds, and in *total the sum over all
// warps. `shared`: [warps]; synchronize before it is written again.
template <class T>
__device__ __forceinline__ T block_exclusive_sum_of_warps(T value, int source, int warps, T* shared, T* total) {
  if (lane_index() == source) shared[warp_index()] = value;
  __syncthreads();
  T below = 0;
  *total = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp_index()) below += shared[w];
    *total += shared[w];
  }
  return below;
}

// The sum over the threads below, and in *total the sum over the block. `shared`: as above.
template <class T>
__device__ __forceinline__ T block_exclusive_sum(T value, int warps, T* shared, T* total) {
  const T inclusive = warp_inclusive_sum(value);
  return block_exclusive_sum_of_warps(inclusive, 31, warps, shared, total) + inclusive - value;
}

// The number of threads below with `selected`, and in *count the number of all threads with it. `shared`: as above.
__device__ __forceinline__ int block_compact(bool selected, int warps, int* shared, int* count) {
  int in_warp;
  const int rank = warp_compact(selected, &in_warp);
  return block_exclusive_sum_of_warps(in_warp, 0, warps, shared, count) + rank;
}

// True in all threads if some flag is 0, that is, if some group of rows has a non-finite row.
__device__ __forceinline__ bool block_any_nonfinite(const int32_t* finite, int64_t groups) {
  bool has_nonfinite = false;
  for (int64_t i = threadIdx.x; i < groups; i += blockDim.x) has_nonfinite |= finite[i] == 0;
  return __syncthreads_or(has_nonfinite);
}

// True in the block that arrives last, which then sees what all other blocks wrote before. *blocks_done starts at 0.
__device__ __forceinline__ bool grid_is_last_block(int32_t* blocks_done) {
  if (gridDim.x == 1) return true;
  __threadfence();
  __syncthreads();
  const bool last = threadIdx.x == 0 && atomicAdd(blocks_done, 1) == static_cast<int32_t>(gridDim.x - 1);
  const bool is_last = __syncthreads_or(last);
  __threadfence();
  return is_last;
}

}  // namespace hardmine::cuda
