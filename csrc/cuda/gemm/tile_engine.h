// The tile engine: a block of threads computes a tile of scores in registers, a fragment per thread, for a consumer in
// the same kernel. The order of each sum over depth depends on neither the tile nor the place in it, so equal rows give
// equal scores everywhere.
#pragma once

#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// Score (row(r), column(c)) of the MmaPolicy is at[r][c].
template <class MmaPolicy>
struct Fragment {
  typename MmaPolicy::acc_t at[MmaPolicy::kRows][MmaPolicy::kColumns];
};

namespace tile_engine {

// Copies one stage of a panel; each thread copies a part.
template <class MmaPolicy>
__device__ __forceinline__ void copy_stage(const char* panel, int64_t stage, char* shared) {
  panel += stage * MmaPolicy::kStageBytes;
#pragma unroll
  for (int byte = 0; byte < MmaPolicy::kStageBytes; byte += 16 * kTileThreads)
    cp_async_16(shared + byte + threadIdx.x * 16, panel + byte + threadIdx.x * 16);
}

}  // namespace tile_engine

// Computes `fragment`. All threads of the block call it, with kSharedBytes of shared memory, which are free again when
// it returns.
template <class MmaPolicy>
__device__ __forceinline__ void multiply_panels(const char* rows, const char* columns, int64_t stages, char* shared,
                                                Fragment<MmaPolicy>& fragment) {
  constexpr int kInFlight = MmaPolicy::kStages, kBytes = MmaPolicy::kStageBytes;
  const auto copy = [&](int64_t stage, int slot) {
    if (stage < stages) {
      tile_engine::copy_stage<MmaPolicy>(rows, stage, shared + 2 * slot * kBytes);
      tile_engine::copy_stage<MmaPolicy>(columns, stage, shared + (2 * slot + 1) * kBytes);
    }
    cp_async_commit();  // past the end the group is empty: cp_async_wait counts groups
  };
#pragma unroll
  for (int r = 0; r < MmaPolicy::kRows; ++r)
#pragma unroll
    for (int c = 0; c < MmaPolicy::kColumns; ++c) fragment.at[r][c] = 0;
#pragma unroll
  for (int stage = 0; stage < kInFlight - 1; ++stage) copy(stage, stage);
  int slot = 0;
  for (int64_t stage = 0; stage < stages; ++stage) {
    // This stage has arrived for every thread, and all threads are done with the previous stage, whose slot is next.
    cp_async_wait<kInFlight - 2>();
    __syncthreads();
    copy(stage + kInFlight - 1, slot == 0 ? kInFlight - 1 : slot - 1);
    MmaPolicy::multiply_stage(shared + 2 * slot * kBytes, shared + (2 * slot + 1) * kBytes, fragment);
    slot = slot + 1 == kInFlight ? 0 : slot + 1;
  }
  cp_async_wait<0>();
  __syncthreads();
}

}  // namespace hardmine::cuda
