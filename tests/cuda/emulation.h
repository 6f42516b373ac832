// A GPU on the host, as far as csrc/cuda needs one: blocks run one after the other, the threads of a block as fibers
// that give way to each other at barriers and warp exchanges only.
//
// It is strict where a GPU is silent. Shared memory starts as NaNs, and is an allocation of exactly the size asked for,
// so that AddressSanitizer sees what lies outside. Asynchronous copies arrive when they are waited for, and no sooner.
// Threads that meet different barriers, or that end while others wait, are an error, and so are copies that nobody
// waits for and misaligned ones. The order in which fibers run can be chosen, and how far warps get ahead of each
// other: a missing barrier shows as a result that depends on it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

#define HARDMINE_KERNEL(threads, blocks_per_processor) void
#define HARDMINE_DEVICE inline

namespace hardmine::cuda {

namespace emulation {

enum class Order { kAscending, kDescending, kShuffled };

// How threads take turns from now on, and what the blocks of a grid do likewise. Shuffled, all threads of a block run
// up to their next barrier or exchange; else warp after warp runs up to the block's next barrier.
void set_order(Order order, uint64_t seed = 0);

// The number of kernels that ran since the last call.
int64_t take_launch_count();

// Runs a kernel; throws std::runtime_error with its name if it breaks a rule.
void run(const char* name, int64_t blocks, int threads, size_t shared, const std::function<void()>& kernel);

struct Place {
  int thread = 0, threads = 0;
  int64_t block = 0, blocks = 0;
  char* shared = nullptr;
};
const Place& place();

enum class Barrier { kBlock, kBlockAny, kWarp, kShuffle, kBallot, kMultiply };
// Waits for the block's threads, or the warp's.
void wait_for_block(Barrier kind);
void wait_for_warp(Barrier kind);
bool wait_for_block_any(bool condition);
// Publishes up to 32 bytes of this lane to its warp; the place where lane `other` did is valid until the next exchange
// but one.
const unsigned char* exchange(const void* data, size_t size, Barrier kind);
inline constexpr size_t kExchangeBytes = 32;

void copy_async(void* shared, const void* global);
void close_copy_group();
void wait_for_copies(int groups);

[[noreturn]] void fail(const char* what);

}  // namespace emulation

inline int thread_index() { return emulation::place().thread; }
inline int block_size() { return emulation::place().threads; }
inline int lane_index() { return thread_index() % 32; }
inline int warp_index() { return thread_index() / 32; }
inline int64_t block_index() { return emulation::place().block; }
inline int64_t grid_size() { return emulation::place().blocks; }
inline char* shared_memory() { return emulation::place().shared; }

inline void sync_block() { emulation::wait_for_block(emulation::Barrier::kBlock); }
inline bool sync_block_any(bool condition) { return emulation::wait_for_block_any(condition); }

inline void sync_warp() { emulation::wait_for_warp(emulation::Barrier::kWarp); }

// The value of lane `source`.
template <class T>
T shuffle(T value, int source) {
  static_assert(sizeof(T) <= emulation::kExchangeBytes);
  const unsigned char* lanes = emulation::exchange(&value, sizeof value, emulation::Barrier::kShuffle);
  T other;
  std::memcpy(&other, lanes + source * emulation::kExchangeBytes, sizeof other);
  return other;
}
template <class T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, lane_index() ^ mask);
}
template <class T>
T shuffle_up(T value, int step) {
  return shuffle(value, lane_index() < step ? lane_index() : lane_index() - step);
}
inline uint32_t ballot(bool condition) {
  const unsigned char* lanes = emulation::exchange(&condition, sizeof condition, emulation::Barrier::kBallot);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane)
    bits |= static_cast<uint32_t>(lanes[lane * emulation::kExchangeBytes] != 0) << lane;
  return bits;
}
inline int count_bits(uint32_t bits) { return __builtin_popcount(bits); }

inline void atomic_max(uint64_t* target, uint64_t value) {
  if (*target < value) *target = value;
}
template <class T>
T atomic_add(T* target, std::type_identity_t<T> value) {
  const T before = *target;
  *target += value;
  return before;
}
inline uint64_t load_shared_by_blocks(const uint64_t* source) { return *source; }
inline void fence() {}

inline void copy_async(void* shared, const void* global) { emulation::copy_async(shared, global); }
inline void close_copy_group() { emulation::close_copy_group(); }
template <int kGroups>
void wait_for_copies() {
  emulation::wait_for_copies(kGroups);
}

struct alignas(16) Words {
  uint32_t at[4];
};
inline Words load_words(const void* shared) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) emulation::fail("a load of 16 bytes is not aligned to 16");
  Words words;
  std::memcpy(&words, shared, sizeof words);
  return words;
}

// Numbers of 16 bits, with the conversions of the hardware: to nearest, ties to even.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
float to_number(BFloat16 x);
float to_number(Float16 x);
inline float to_number(float x) { return x; }
inline double to_number(double x) { return x; }
template <class Scalar>
Scalar from_number(float x);
template <>
inline float from_number<float>(float x) {
  return x;
}
template <>
BFloat16 from_number<BFloat16>(float x);
template <>
Float16 from_number<Float16>(float x);
template <class Scalar>
Scalar from_number(double x) {
  return static_cast<Scalar>(x);
}

void multiply_add_bfloat16(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1);
void multiply_add_float16(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1);
void multiply_add_tf32(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1);
uint32_t round_to_tf32(float x);

}  // namespace hardmine::cuda
