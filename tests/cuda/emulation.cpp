#include "emulation.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/device/device.h"
#include "stack_switch.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define HARDMINE_FIBERS_OF_ASAN
#endif

namespace hardmine::cuda {
namespace emulation {
namespace {

constexpr size_t kStack = 256 * 1024;
constexpr size_t kMaxShared = 99 * 1024;  // per block, of the smallest GPUs
constexpr int kWarp = 32;

struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done = false;
  bool waits = false;  // at a barrier of the block or the warp
  bool waits_for_block = false;
  Barrier kind = Barrier::kBlock;
  std::vector<Copy> open;                // copies that are not committed
  std::deque<std::vector<Copy>> groups;  // committed, not arrived
  int64_t exchanges = 0;
  void* fake_stack = nullptr;
};

struct State {
  Context scheduler;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::unique_ptr<unsigned char[]>> lanes;  // two buffers per warp
  const std::function<void()>* kernel = nullptr;
  char* shared = nullptr;
  Fiber* running = nullptr;
  bool any = false, any_of_last = false;
  std::string failure;
  Order order = Order::kAscending;
  std::mt19937_64 random;
  int64_t launches = 0;
};
State state;

void to_scheduler(bool ends) {
  Fiber& self = *state.running;
#ifdef HARDMINE_FIBERS_OF_ASAN
  __sanitizer_start_switch_fiber(ends ? nullptr : &self.fake_stack, state.scheduler_stack, state.scheduler_stack_size);
#else
  static_cast<void>(ends);
#endif
  switch_context(self.context, state.scheduler);
#ifdef HARDMINE_FIBERS_OF_ASAN
  __sanitizer_finish_switch_fiber(self.fake_stack, &state.scheduler_stack, &state.scheduler_stack_size);
#endif
}

void fiber_main() {
#ifdef HARDMINE_FIBERS_OF_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &state.scheduler_stack, &state.scheduler_stack_size);
#endif
  (*state.kernel)();
  Fiber& self = *state.running;
  if (!self.open.empty() || !self.groups.empty()) state.failure = "a thread ended before its copies arrived";
  self.done = true;
  to_scheduler(true);
}

void resume(int thread) {
  Fiber& fiber = *state.fibers[thread];
  state.running = &fiber;
  thread_index.x = static_cast<unsigned>(thread);
#ifdef HARDMINE_FIBERS_OF_ASAN
  __sanitizer_start_switch_fiber(&state.scheduler_fake_stack, fiber.stack.get(), kStack);
#endif
  switch_context(state.scheduler, fiber.context);
#ifdef HARDMINE_FIBERS_OF_ASAN
  __sanitizer_finish_switch_fiber(state.scheduler_fake_stack, nullptr, nullptr);
#endif
}

std::vector<int64_t> turns(int64_t count) {
  std::vector<int64_t> turn(count);
  std::iota(turn.begin(), turn.end(), 0);
  if (state.order == Order::kDescending) std::reverse(turn.begin(), turn.end());
  if (state.order == Order::kShuffled) std::shuffle(turn.begin(), turn.end(), state.random);
  return turn;
}

// Releases the threads [begin, end) if all of them wait at the same barrier.
bool release(int begin, int end, bool block) {
  bool all = true;
  for (int t = begin; t < end; ++t) {
    const Fiber& fiber = *state.fibers[t];
    all &= fiber.waits && fiber.waits_for_block == block && fiber.kind == state.fibers[begin]->kind;
  }
  if (!all) return false;
  for (int t = begin; t < end; ++t) state.fibers[t]->waits = false;
  if (block) {
    state.any_of_last = state.any;
    state.any = false;
  }
  return true;
}

void prepare(Fiber& fiber) {
  fiber.done = fiber.waits = false;
  fiber.exchanges = 0;
#ifdef HARDMINE_FIBERS_OF_ASAN
  // The fiber that ran on this stack never returned, and left the guards of its frames.
  __asan_unpoison_memory_region(fiber.stack.get(), kStack);
#endif
  prepare_context(fiber.context, fiber.stack.get(), kStack, fiber_main);
}

// Resumes each runnable thread of [begin, end) once. True if some thread ran.
bool take_turns(int begin, int end) {
  bool ran = false;
  for (const int64_t turn : turns(end - begin)) {
    const int t = begin + static_cast<int>(turn);
    if (state.fibers[t]->done || state.fibers[t]->waits) continue;
    resume(t);
    ran = true;
    if (!state.failure.empty()) return true;
  }
  return ran;
}

bool release_warps(int begin, int end) {
  bool freed = false;
  for (int warp = begin; warp < end; warp += kWarp) freed |= release(warp, std::min(warp + kWarp, end), false);
  return freed;
}

void run_block(int threads) {
  for (int t = 0; t < threads; ++t) prepare(*state.fibers[t]);
  for (;;) {
    bool ran = false;
    if (state.order == Order::kShuffled) {
      ran = take_turns(0, threads);
      if (release_warps(0, threads)) ran = true;
    } else {
      // A warp runs as far as it can before the next one starts, ahead of others by all that barriers allow.
      for (const int64_t turn : turns((threads + kWarp - 1) / kWarp)) {
        const int first = static_cast<int>(turn) * kWarp;
        while (state.failure.empty() && (take_turns(first, first + kWarp) | release_warps(first, first + kWarp)))
          ran = true;
      }
    }
    if (!state.failure.empty()) return;
    if (release(0, threads, true) || ran) continue;
    for (int t = 0; t < threads; ++t)
      if (!state.fibers[t]->done) state.failure = "threads wait for others that ended, or that wait elsewhere";
    return;
  }
}

void wait(Barrier kind, bool block) {
  Fiber& self = *state.running;
  self.waits = true;
  self.waits_for_block = block;
  self.kind = kind;
  to_scheduler(false);
}

}  // namespace

Extent thread_index, block_index, block_size, grid_size;

void set_order(Order order, uint64_t seed) {
  state.order = order;
  state.random.seed(seed);
}

int64_t take_launch_count() { return std::exchange(state.launches, 0); }

void fail(const char* what) {
  state.failure = what;
  to_scheduler(true);
  std::abort();  // a failed thread is never resumed
}

void run(const char* name, int64_t blocks, int threads, size_t shared, const std::function<void()>& kernel) {
  if (threads < 1 || threads > 1024 || threads % kWarp != 0)
    throw std::runtime_error(std::string(name) + ": a block must have 32 to 1024 threads, a multiple of 32");
  if (shared > kMaxShared)
    throw std::runtime_error(std::string(name) + ": a block may have 99 KiB of shared memory, got " +
                             std::to_string(shared) + " bytes");
  ++state.launches;
  while (static_cast<int>(state.fibers.size()) < threads) state.fibers.push_back(std::make_unique<Fiber>());
  while (static_cast<int>(state.lanes.size()) < threads / kWarp)
    state.lanes.emplace_back(new unsigned char[2 * kWarp * kExchangeBytes]);
  state.kernel = &kernel;
  for (const int64_t block : turns(blocks)) {
    // A separate allocation, so that AddressSanitizer guards both ends.
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shared) != 0) throw std::bad_alloc();
    const std::unique_ptr<void, void (*)(void*)> owner(memory, std::free);
    std::memset(memory, 0xff, shared);
    thread_index = {};
    block_size.x = static_cast<unsigned>(threads);
    block_index.x = static_cast<unsigned>(block);
    grid_size.x = static_cast<unsigned>(blocks);
    state.shared = static_cast<char*>(memory);
    state.failure.clear();
    run_block(threads);
    if (state.failure.empty()) continue;
    for (auto& fiber : state.fibers) {
      fiber->open.clear();
      fiber->groups.clear();
    }
    throw std::runtime_error(std::string(name) + ": " + state.failure);
  }
}

void wait_for_block(Barrier kind) { wait(kind, true); }
void wait_for_warp(Barrier kind) { wait(kind, false); }

bool wait_for_block_or(bool condition) {
  state.any |= condition;
  wait(Barrier::kBlockOr, true);
  return state.any_of_last;
}

const unsigned char* exchange(const void* data, size_t size, Barrier kind) {
  Fiber& self = *state.running;
  const int warp = warp_index(), lane = lane_index();
  // Two alternating buffers: before a lane writes to one again, all lanes have met in between, and so have read it.
  unsigned char* buffer = state.lanes[warp].get() + (self.exchanges++ % 2) * kWarp * kExchangeBytes;
  std::memcpy(buffer + lane * kExchangeBytes, data, size);
  wait_for_warp(kind);
  return buffer;
}

void cp_async_wait(int groups) {
  auto& pending = state.running->groups;
  while (static_cast<int>(pending.size()) > groups) {
    for (const Copy& copy : pending.front()) std::memcpy(copy.to, copy.from, 16);
    pending.pop_front();
  }
}

}  // namespace emulation

char* shared_memory() { return emulation::state.shared; }

Words load_shared_16(const void* shared) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) emulation::fail("a load of 16 bytes is not aligned to 16");
  Words words;
  std::memcpy(&words, shared, sizeof words);
  return words;
}

void cp_async_16(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0)
    emulation::fail("a copy of 16 bytes is not aligned to 16");
  emulation::state.running->open.push_back({shared, global});
}

void cp_async_commit() {
  auto& fiber = *emulation::state.running;
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

uint32_t round_to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (!std::isfinite(x)) return bits;
  return (bits + 0x1000) & ~0x1fffu;  // to nearest, ties away from zero, as cvt.rna
}

namespace {

struct Fragments {
  Words a;
  uint32_t b0, b1;
};

// A lane's words hold rows g and g + 8, and depths t and t + 4 in words; see cuda/device/device.h.
template <int kNumbers, class Decode>
void multiply_add(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1,
                  const Decode& decode) {
  const Fragments fragments{a, b0, b1};
  static_assert(sizeof fragments <= emulation::kExchangeBytes);
  const unsigned char* lanes = emulation::exchange(&fragments, sizeof fragments, emulation::Barrier::kMma);
  const auto of_lane = [&](int lane) {
    Fragments f;
    std::memcpy(&f, lanes + lane * emulation::kExchangeBytes, sizeof f);
    return f;
  };
  const int g = lane_index() / 4, t = lane_index() % 4;
  float* d[2][2] = {{&d0, &d1}, {&d2, &d3}};
  for (int column = 0; column < 2; ++column) {
    for (int half = 0; half < 8; ++half) {  // words of depth, t and t + 4
      const Fragments row = of_lane(4 * g + half % 4), other = of_lane(4 * (2 * t + column) + half % 4);
      const uint32_t b = half < 4 ? other.b0 : other.b1;
      for (int n = 0; n < kNumbers; ++n)
        for (int r = 0; r < 2; ++r) *d[r][column] += decode(row.a.at[r + half / 4 * 2], n) * decode(b, n);
    }
  }
}

}  // namespace

void mma_m16n8k16_bf16(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1) {
  multiply_add<2>(d0, d1, d2, d3, a, b0, b1,
                  [](uint32_t word, int n) { return to_acc(BFloat16{static_cast<uint16_t>(word >> 16 * n)}); });
}
void mma_m16n8k16_f16(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1) {
  multiply_add<2>(d0, d1, d2, d3, a, b0, b1,
                  [](uint32_t word, int n) { return to_acc(Float16{static_cast<uint16_t>(word >> 16 * n)}); });
}
void mma_m16n8k8_tf32(float& d0, float& d1, float& d2, float& d3, const Words& a, uint32_t b0, uint32_t b1) {
  multiply_add<1>(d0, d1, d2, d3, a, b0, b1, [](uint32_t word, int) {
    const uint32_t bits = word & ~0x1fffu;  // tensor cores ignore the low bits
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  });
}

}  // namespace hardmine::cuda

float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float __half2float(__half x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  const float sign = x.bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31)
    return fraction ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

__nv_bfloat16 __float2bfloat16_rn(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (std::isnan(x)) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

__half __float2half_rn(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return {0x7fff};
  const float size = std::fabs(x);
  if (size >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (size < 0x1p-14f)  // subnormal: a multiple of 2^-24
    return {static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24))))};
  const int exponent = std::ilogb(size);
  const auto fraction = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // 1024 to 2048
  return {static_cast<uint16_t>(sign | (((exponent + 14) << 10) + fraction))};
}
