// The tile engine: a block of threads makes a tile of numbers in registers, each thread its fragment, and hands it to
// whoever consumes it there. Each number is a sum over depth in an order that depends on neither the tile nor its place
// in it, so equal rows give equal numbers wherever they lie.
#pragma once

#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// A thread's fragment of a tile: number (row(r), column(c)) of Arithmetic is at [r][c].
template <class Arithmetic>
struct Fragment {
  typename Arithmetic::acc_t at[Arithmetic::kRows][Arithmetic::kColumns];
};

namespace tile_engine {

// One stage of a panel, a fragment of it each thread.
template <class Arithmetic>
__device__ __forceinline__ void copy_stage(const char* panel, int64_t stage, char* shared) {
  panel += stage * Arithmetic::kStageBytes;
#pragma unroll
  for (int byte = 0; byte < Arithmetic::kStageBytes; byte += 16 * kTileThreads)
    cp_async_16(shared + byte + threadIdx.x * 16, panel + byte + threadIdx.x * 16);
}

}  // namespace tile_engine

// Fills `fragment`. All threads of the block call it, with kSharedBytes of shared memory, which nobody uses any more
// when it returns.
template <class Arithmetic>
__device__ __forceinline__ void multiply_panels(const char* rows, const char* columns, int64_t stages, char* shared,
                                                Fragment<Arithmetic>& fragment) {
  constexpr int kInFlight = Arithmetic::kStages, kBytes = Arithmetic::kStageBytes;
  const auto copy = [&](int64_t stage, int slot) {
    if (stage < stages) {
      tile_engine::copy_stage<Arithmetic>(rows, stage, shared + 2 * slot * kBytes);
      tile_engine::copy_stage<Arithmetic>(columns, stage, shared + (2 * slot + 1) * kBytes);
    }
    cp_async_commit();  // of nothing, past the end: the waits below count groups
  };
#pragma unroll
  for (int r = 0; r < Arithmetic::kRows; ++r)
#pragma unroll
    for (int c = 0; c < Arithmetic::kColumns; ++c) fragment.at[r][c] = 0;
#pragma unroll
  for (int stage = 0; stage < kInFlight - 1; ++stage) copy(stage, stage);
  int slot = 0;
  for (int64_t stage = 0; stage < stages; ++stage) {
    cp_async_wait<kInFlight - 2>();  // this stage has arrived
    __syncthreads();                 // for every thread; and all are done with the stage before, whose slot is next
    copy(stage + kInFlight - 1, slot == 0 ? kInFlight - 1 : slot - 1);
    Arithmetic::multiply_stage(shared + 2 * slot * kBytes, shared + (2 * slot + 1) * kBytes, fragment);
    slot = slot + 1 == kInFlight ? 0 : slot + 1;
  }
  cp_async_wait<0>();
  __syncthreads();
}

}  // namespace hardmine::cuda
