// What kernels use of the hardware that has no name in CUDA C++. Where nvcc does not compile, the tests' emulation of a
// GPU supplies CUDA's names and the inline PTX (tests/cuda/emulation.h). Every kernel is one-dimensional.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "emulation.h"
#endif

namespace hardmine::cuda {

inline constexpr unsigned kFullWarp = 0xffffffffu;  // the mask of all 32 lanes

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % 32; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / 32; }
__device__ __forceinline__ int warps_per_block() { return static_cast<int>(blockDim.x) / 32; }

// CUDA's atomics on 64 bits take unsigned long long only.
__device__ __forceinline__ void atomic_max(uint64_t* target, uint64_t value) {
  atomicMax(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}
__device__ __forceinline__ int64_t atomic_add(int64_t* target, int64_t value) {
  return static_cast<int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value)));
}
// Reads global memory that other blocks may be writing.
__device__ __forceinline__ uint64_t load_relaxed(const uint64_t* source) {
  return *reinterpret_cast<const volatile uint64_t*>(source);
}

using BFloat16 = __nv_bfloat16;
using Float16 = __half;
__device__ __forceinline__ float to_acc(float x) { return x; }
__device__ __forceinline__ double to_acc(double x) { return x; }
__device__ __forceinline__ float to_acc(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_acc(Float16 x) { return __half2float(x); }
template <class Scalar>
__device__ __forceinline__ Scalar from_acc(float x);
template <>
__device__ __forceinline__ float from_acc<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ BFloat16 from_acc<BFloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ __forceinline__ Float16 from_acc<Float16>(float x) {
  return __float2half_rn(x);
}
template <class Scalar>
__device__ __forceinline__ Scalar from_acc(double x) {
  return static_cast<Scalar>(x);
}

// 16 bytes as four registers.
struct alignas(16) Words {
  uint32_t at[4];
};

#ifdef __CUDACC__

// The block's dynamic shared memory, of the size that the launch requested.
__device__ __forceinline__ char* shared_memory() {
  extern __shared__ __align__(128) char hardmine_shared[];
  return hardmine_shared;
}
__device__ __forceinline__ Words load_shared_16(const void* shared) { return *static_cast<const Words*>(shared); }

// Asynchronous copy of 16 bytes to shared memory; both addresses are aligned to 16. cp_async_wait<n> waits until all
// but the latest n committed groups of this thread have arrived; a barrier then shows them to the block.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(global));
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::); }
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroups) : "memory");
}

// Tensor cores: d[16, 8] += a[16, k] b[k, 8] with k = 16 (2-byte operands) or 8 (4-byte). Lane 4 g + t holds
// (d0, d1) = d[g][2 t, 2 t + 1] and (d2, d3) = d[g + 8][2 t, 2 t + 1]. cuda/gemm/mma_policy.h has the layout of a and
// b.
#define HARDMINE_MMA(name, instruction)                                                                         \
  __device__ __forceinline__ void name(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, \
                                       uint32_t b1) {                                                           \
    asm volatile("mma.sync.aligned." instruction " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"     \
                 : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)                                                       \
                 : "r"(a.at[0]), "r"(a.at[1]), "r"(a.at[2]), "r"(a.at[3]), "r"(b0), "r"(b1));                   \
  }
HARDMINE_MMA(mma_m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
HARDMINE_MMA(mma_m16n8k16_f16, "m16n8k16.row.col.f32.f16.f16.f32")
HARDMINE_MMA(mma_m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef HARDMINE_MMA

// The nearest TF32 number, as the bits of a float.
__device__ __forceinline__ uint32_t round_to_tf32(float x) {
  uint32_t bits;
  asm volatile("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(x));
  return bits;
}

#endif

}  // namespace hardmine::cuda
