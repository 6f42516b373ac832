// A GPU on the host, as far as csrc/cuda needs one: CUDA's names, and the inline PTX of cuda/device/device.h. Blocks
// run one after the other, the threads of a block as fibers that switch at barriers and warp exchanges only.
//
// It is strict where a GPU is silent:
// - Shared memory starts as NaNs and has exactly the requested size, so that AddressSanitizer sees what lies outside.
//   More than every supported GPU has is an error.
// - Asynchronous copies arrive when they are waited for, and no sooner.
// - Threads that meet different barriers, or that end while others wait, are an error. So are a warp exchange without
//   all 32 lanes, copies that nobody waits for, and misaligned copies and loads.
// - The order of the fibers can be chosen, and how far warps get ahead of each other. A missing barrier shows as a
//   result that depends on it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads, blocks_per_processor)

namespace hardmine::cuda {

struct Words;

namespace emulation {

enum class Order { kAscending, kDescending, kShuffled };

// Sets the order of threads, and of the blocks of a grid. Shuffled: all threads of a block run up to their next barrier
// or exchange. Otherwise warp after warp runs up to the block's next barrier.
void set_order(Order order, uint64_t seed = 0);

// The number of kernels that ran since the last call.
int64_t take_launch_count();

// Runs a kernel; throws std::runtime_error with its name if it breaks a rule.
void run(const char* name, int64_t blocks, int threads, size_t shared, const std::function<void()>& kernel);

// One-dimensional: a kernel that asks for .y does not compile.
struct Extent {
  unsigned x = 0;
};
extern Extent thread_index, block_index, block_size, grid_size;

enum class Barrier { kBlock, kBlockOr, kWarp, kShuffle, kBallot, kMma };
void wait_for_block(Barrier kind);
void wait_for_warp(Barrier kind);
bool wait_for_block_or(bool condition);
// Publishes up to 32 bytes of this lane to its warp. Lane i's bytes are at offset i * kExchangeBytes, valid until the
// next exchange but one.
const unsigned char* exchange(const void* data, size_t size, Barrier kind);
inline constexpr size_t kExchangeBytes = 32;

void cp_async_wait(int groups);

[[noreturn]] void fail(const char* what);

inline void check_mask(unsigned mask) {
  if (mask != 0xffffffffu) fail("a warp exchange without all 32 lanes");
}

// The value of lane `source`.
template <class T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "CUDA shuffles 4 or 8 bytes");
  check_mask(mask);
  const unsigned char* lanes = exchange(&value, sizeof value, Barrier::kShuffle);
  T other;
  std::memcpy(&other, lanes + source * kExchangeBytes, sizeof other);
  return other;
}

}  // namespace emulation

char* shared_memory();
Words load_shared_16(const void* shared);

void cp_async_16(void* shared, const void* global);
void cp_async_commit();
template <int kGroups>
void cp_async_wait() {
  emulation::cp_async_wait(kGroups);
}

void mma_m16n8k16_bf16(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1);
void mma_m16n8k16_f16(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1);
void mma_m16n8k8_tf32(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1);
uint32_t round_to_tf32(float x);

}  // namespace hardmine::cuda

inline constexpr const hardmine::cuda::emulation::Extent& threadIdx = hardmine::cuda::emulation::thread_index;
inline constexpr const hardmine::cuda::emulation::Extent& blockIdx = hardmine::cuda::emulation::block_index;
inline constexpr const hardmine::cuda::emulation::Extent& blockDim = hardmine::cuda::emulation::block_size;
inline constexpr const hardmine::cuda::emulation::Extent& gridDim = hardmine::cuda::emulation::grid_size;

inline void __syncthreads() {
  using namespace hardmine::cuda::emulation;
  wait_for_block(Barrier::kBlock);
}
inline int __syncthreads_or(int condition) { return hardmine::cuda::emulation::wait_for_block_or(condition != 0); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  using namespace hardmine::cuda::emulation;
  check_mask(mask);
  wait_for_warp(Barrier::kWarp);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return hardmine::cuda::emulation::shuffle(mask, value, lane ^ lane_mask);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const int lane = static_cast<int>(threadIdx.x) % 32, source = lane - static_cast<int>(delta);
  return hardmine::cuda::emulation::shuffle(mask, value, source < 0 ? lane : source);
}
inline unsigned __ballot_sync(unsigned mask, int condition) {
  using namespace hardmine::cuda::emulation;
  check_mask(mask);
  const bool set = condition != 0;
  const unsigned char* lanes = exchange(&set, sizeof set, Barrier::kBallot);
  unsigned bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= static_cast<unsigned>(lanes[lane * kExchangeBytes] != 0) << lane;
  return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline void __threadfence() {}
// Through memcpy: kernels see the same 8 bytes as another type.
inline int atomicAdd(int* target, int value) {
  const int before = *target;
  *target += value;
  return before;
}
inline unsigned long long atomicAdd(unsigned long long* target, unsigned long long value) {
  unsigned long long before;
  std::memcpy(&before, target, sizeof before);
  const unsigned long long after = before + value;
  std::memcpy(target, &after, sizeof after);
  return before;
}
inline unsigned long long atomicMax(unsigned long long* target, unsigned long long value) {
  unsigned long long before;
  std::memcpy(&before, target, sizeof before);
  if (before < value) std::memcpy(target, &value, sizeof value);
  return before;
}

// With the hardware's conversions: to nearest, ties to even.
struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
float __bfloat162float(__nv_bfloat16 x);
float __half2float(__half x);
__nv_bfloat16 __float2bfloat16_rn(float x);
__half __float2half_rn(float x);
