// What kernels need of the hardware, under names of our own: nvcc compiles them to the instructions that they stand
// for, and the tests to a small emulation on the host (tests/cuda/emulation.h). Every kernel is one-dimensional.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"

#ifndef __CUDACC__
#include "emulation.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define HARDMINE_KERNEL(threads, blocks_per_processor) __global__ void __launch_bounds__(threads, blocks_per_processor)
#define HARDMINE_DEVICE __device__ __forceinline__

namespace hardmine::cuda {

HARDMINE_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
HARDMINE_DEVICE int block_size() { return static_cast<int>(blockDim.x); }
HARDMINE_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % 32; }
HARDMINE_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) / 32; }
HARDMINE_DEVICE int64_t block_index() { return blockIdx.x; }
HARDMINE_DEVICE int64_t grid_size() { return gridDim.x; }

// The block's shared memory, as much as its launch asked for.
HARDMINE_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char hardmine_shared[];
  return hardmine_shared;
}

HARDMINE_DEVICE void sync_block() { __syncthreads(); }
// A barrier that tells every thread whether `condition` holds for any of them.
HARDMINE_DEVICE bool sync_block_any(bool condition) { return __syncthreads_or(condition) != 0; }

// A barrier of the 32 lanes of a warp; what they wrote before is seen by them after.
HARDMINE_DEVICE void sync_warp() { __syncwarp(); }

// Exchanges within a warp; all 32 lanes take part.
template <class T>
HARDMINE_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// The value of the lane `step` below; of the lowest lanes, their own.
template <class T>
HARDMINE_DEVICE T shuffle_up(T value, int step) {
  return __shfl_up_sync(0xffffffffu, value, step);
}
HARDMINE_DEVICE uint32_t ballot(bool condition) { return __ballot_sync(0xffffffffu, condition); }
HARDMINE_DEVICE int count_bits(uint32_t bits) { return __popc(bits); }

HARDMINE_DEVICE void atomic_max(uint64_t* target, uint64_t value) {
  atomicMax(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}
HARDMINE_DEVICE int32_t atomic_add(int32_t* target, int32_t value) { return atomicAdd(target, value); }
HARDMINE_DEVICE int64_t atomic_add(int64_t* target, int64_t value) {
  return static_cast<int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value)));
}
// Reads what other blocks may be writing.
HARDMINE_DEVICE uint64_t load_shared_by_blocks(const uint64_t* source) {
  return *reinterpret_cast<const volatile uint64_t*>(source);
}
// What this thread wrote before is seen by others before what it writes after.
HARDMINE_DEVICE void fence() { __threadfence(); }

// Copies 16 bytes to shared memory, both ends aligned to 16, without waiting. wait_for_copies<n> waits until all but
// the latest n groups of this thread's copies have arrived; a barrier then shows them to the block.
HARDMINE_DEVICE void copy_async(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(global));
}
HARDMINE_DEVICE void close_copy_group() { asm volatile("cp.async.commit_group;\n" ::); }
template <int kGroups>
HARDMINE_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroups) : "memory");
}

// 16 bytes as four registers.
struct alignas(16) Words {
  uint32_t at[4];
};
HARDMINE_DEVICE Words load_words(const void* shared) { return *static_cast<const Words*>(shared); }

// Matrix units: d[16, 8] += a[16, k] b[k, 8], k = 16 numbers of 2 bytes or 8 of 4. Lane 4 g + t holds
// (d0, d1) = d[g][2 t, 2 t + 1] and (d2, d3) = d[g + 8][2 t, 2 t + 1]; the words of a and b are those of a
// packed row group (arithmetic.h).
#define HARDMINE_MULTIPLY_ADD(name, instruction)                                                                    \
  HARDMINE_DEVICE void name(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1) { \
    asm volatile("mma.sync.aligned." instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"         \
                 : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)                                                           \
                 : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b0), "r"(b1));                       \
  }
HARDMINE_MULTIPLY_ADD(multiply_add_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
HARDMINE_MULTIPLY_ADD(multiply_add_float16, "m16n8k16.row.col.f32.f16.f16.f32")
HARDMINE_MULTIPLY_ADD(multiply_add_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef HARDMINE_MULTIPLY_ADD
// The nearest number that the matrix units' TF32 holds, as the bits of a float.
HARDMINE_DEVICE uint32_t round_to_tf32(float x) {
  uint32_t bits;
  asm volatile("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
  return bits;
}

using BFloat16 = __nv_bfloat16;
using Float16 = __half;
HARDMINE_DEVICE float to_number(float x) { return x; }
HARDMINE_DEVICE double to_number(double x) { return x; }
HARDMINE_DEVICE float to_number(BFloat16 x) { return __bfloat162float(x); }
HARDMINE_DEVICE float to_number(Float16 x) { return __half2float(x); }
template <class Scalar>
HARDMINE_DEVICE Scalar from_number(float x);
template <>
HARDMINE_DEVICE float from_number<float>(float x) {
  return x;
}
template <>
HARDMINE_DEVICE BFloat16 from_number<BFloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
HARDMINE_DEVICE Float16 from_number<Float16>(float x) {
  return __float2half_rn(x);
}
template <class Scalar>
HARDMINE_DEVICE Scalar from_number(double x) {
  return static_cast<Scalar>(x);
}

}  // namespace hardmine::cuda

#endif
