// Sums over a block of threads, always in the same order.
#pragma once

#include "cuda/gemm/row_norms.h"

namespace hardmine::cuda {

inline constexpr int kMostWarps = 32;

// Adds up `count` sums of every thread; thread 0 gets the totals. `shared`: kMostWarps * count numbers.
template <int count, class Number>
HARDMINE_DEVICE void sum_of_block(Number* sum, Number* shared) {
#pragma unroll
  for (int s = 0; s < count; ++s) {
    sum[s] = sum_of_warp(sum[s]);
    if (lane_index() == 0) shared[s * kMostWarps + warp_index()] = sum[s];
  }
  sync_block();
  if (thread_index() == 0) {
#pragma unroll
    for (int s = 0; s < count; ++s) {
      sum[s] = 0;
      for (int w = 0; w < block_size() / 32; ++w) sum[s] += shared[s * kMostWarps + w];
    }
  }
  sync_block();
}

// True in the last block of the grid to get here, which then sees what all others wrote before. *blocks_done starts as
// 0.
HARDMINE_DEVICE bool is_last_block(int32_t* blocks_done) {
  if (grid_size() == 1) return true;
  fence();
  sync_block();
  const bool last = thread_index() == 0 && atomic_add(blocks_done, 1) == static_cast<int32_t>(grid_size() - 1);
  const bool is_last = sync_block_any(last);
  fence();
  return is_last;
}

// True if some group of rows is not finite: all threads of the block get the same answer.
HARDMINE_DEVICE bool block_finds_infinite(const int32_t* finite, int64_t groups) {
  bool infinite = false;
  for (int64_t i = thread_index(); i < groups; i += block_size()) infinite |= finite[i] == 0;
  return sync_block_any(infinite);
}

}  // namespace hardmine::cuda
