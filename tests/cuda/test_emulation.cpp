// The emulation itself: what kernels may rely on works, and what they must not do is an error.

#include "emulation.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device/launch.h"
#include "support/check.h"
#include "support/samples.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

using namespace hardmine;
using namespace hardmine::cuda;
using emulation::Order;

namespace {

constexpr Order kOrders[] = {Order::kAscending, Order::kDescending, Order::kShuffled};

// Runs a kernel of one block.
template <class Kernel>
void run_block(int threads, const Kernel& kernel, size_t shared = 1024) {
  emulation::run("kernel", 1, threads, shared, kernel);
}

const std::string kWaits = "kernel: threads wait for others that ended, or that wait elsewhere";

// The sums of what the neighboring threads wrote. `waits`: with the barriers that this needs.
std::vector<int> read_neighbors(bool waits) {
  std::vector<int> read(96);
  emulation::run("neighbors", 1, 96, 96 * sizeof(int), [&] {
    auto* shared = reinterpret_cast<int*>(shared_memory());
    for (int round = 0; round < 3; ++round) {
      shared[threadIdx.x] = 10 * round + threadIdx.x;
      if (waits) __syncthreads();
      read[threadIdx.x] += shared[(threadIdx.x + 95) % 96];
      if (waits) __syncthreads();
    }
  });
  return read;
}

struct AscendingAfterwards {
  ~AscendingAfterwards() { emulation::set_order(Order::kAscending); }
};

template <class T>
uint32_t bits_of(float x) {
  return from_acc<T>(x).bits;
}
uint32_t tf32_of(float x) { return round_to_tf32(x); }

}  // namespace

TEST(emulation_threads_know_their_indices) {
  std::vector<int> visits(5 * 64);
  emulation::run("places", 5, 64, 0, [&] {
    CHECK_EQ(blockDim.x, 64u);
    CHECK_EQ(gridDim.x, 5u);
    CHECK_EQ(lane_index() + 32 * warp_index(), static_cast<int>(threadIdx.x));
    CHECK_EQ(warps_per_block(), 2);
    ++visits[blockIdx.x * 64 + threadIdx.x];
  });
  CHECK(visits == std::vector<int>(5 * 64, 1));
}

TEST(barrier_makes_writes_visible) {
  const AscendingAfterwards afterwards;
  std::vector<int> want(96);
  for (int t = 0; t < 96; ++t) want[t] = 30 + 3 * ((t + 95) % 96);
  for (const Order order : kOrders) {
    emulation::set_order(order, 1);
    CHECK(read_neighbors(true) == want);
  }
}

TEST(barrier_missing_makes_result_depend_on_order) {
  const AscendingAfterwards afterwards;
  const std::vector<int> ascending = read_neighbors(false);
  CHECK(read_neighbors(false) == ascending);
  emulation::set_order(Order::kDescending);
  CHECK(read_neighbors(false) != ascending);
}

TEST(emulation_order_is_followed) {
  const AscendingAfterwards afterwards;
  const auto turns = [](Order order, uint64_t seed, bool blocks) {
    emulation::set_order(order, seed);
    std::vector<int64_t> turn;
    if (blocks) {
      emulation::run("turns", 64, 32, 0, [&] {
        if (threadIdx.x == 0) turn.push_back(int64_t{blockIdx.x});
      });
    } else {
      emulation::run("turns", 1, 64, 0, [&] { turn.push_back(threadIdx.x); });
    }
    return turn;
  };
  std::vector<int64_t> ascending(64);
  std::iota(ascending.begin(), ascending.end(), 0);
  const std::vector<int64_t> descending(ascending.rbegin(), ascending.rend());
  for (const bool blocks : {false, true}) {
    CHECK(turns(Order::kAscending, 0, blocks) == ascending);
    CHECK(turns(Order::kDescending, 0, blocks) == descending);
    std::vector<int64_t> shuffled = turns(Order::kShuffled, 1, blocks);
    CHECK(shuffled != ascending && shuffled != descending);
    CHECK(turns(Order::kShuffled, 1, blocks) == shuffled);
    CHECK(turns(Order::kShuffled, 2, blocks) != shuffled);
    std::sort(shuffled.begin(), shuffled.end());
    CHECK(shuffled == ascending);
  }
}

TEST(emulation_warp_runs_until_barrier) {
  const AscendingAfterwards ascending;
  for (const Order order : {Order::kAscending, Order::kDescending}) {
    emulation::set_order(order);
    std::vector<int> warps;
    emulation::run("ahead", 1, 64, 0, [&] {
      for (int round = 0; round < 4; ++round) {
        if (lane_index() == 0) warps.push_back(warp_index());
        if (round == 1) {
          __syncthreads();
        } else {
          __syncwarp();
        }
      }
    });
    const bool up = order == Order::kAscending;
    CHECK(warps == (up ? std::vector<int>{0, 0, 1, 1, 0, 0, 1, 1} : std::vector<int>{1, 1, 0, 0, 1, 1, 0, 0}));
  }
}

TEST(barrier_divergence_is_an_error) {
  const auto some_end = [] {
    if (threadIdx.x != 40) __syncthreads();
  };
  const auto other_barrier = [] {
    if (warp_index() == 0) {
      __syncthreads();
    } else {
      __syncthreads_or(false);
    }
  };
  const auto half_a_warp = [] {
    if (lane_index() < 16) __shfl_xor_sync(kFullWarp, 1, 1);
  };
  const auto other_exchange = [] {
    if (lane_index() < 16) {
      __shfl_xor_sync(kFullWarp, 1, 1);
    } else {
      __ballot_sync(kFullWarp, true);
    }
  };
  const auto block_or_warp = [] {
    if (lane_index() < 16) {
      __shfl_xor_sync(kFullWarp, 1, 1);
    } else {
      __syncthreads();
    }
  };
  CHECK_THROWS(run_block(64, some_end), std::runtime_error, kWaits);
  CHECK_THROWS(run_block(64, other_barrier), std::runtime_error, kWaits);
  CHECK_THROWS(run_block(64, half_a_warp), std::runtime_error, kWaits);
  CHECK_THROWS(run_block(64, other_exchange), std::runtime_error, kWaits);
  CHECK_THROWS(run_block(64, block_or_warp), std::runtime_error, kWaits);
  // One warp may exchange values while others do not. The emulation works on after an error.
  run_block(64, [] {
    if (warp_index() == 1) CHECK_EQ(__shfl_xor_sync(kFullWarp, lane_index(), 3), lane_index() ^ 3);
    __syncthreads();
  });
}

TEST(warp_operations_without_all_lanes_are_an_error) {
  const std::string message = "kernel: a warp exchange without all 32 lanes";
  CHECK_THROWS(run_block(32, [] { __shfl_xor_sync(0xffff, 1, 1); }), std::runtime_error, message);
  CHECK_THROWS(run_block(32, [] { __shfl_up_sync(0x7fffffff, 1, 1); }), std::runtime_error, message);
  CHECK_THROWS(run_block(32, [] { __ballot_sync(0, true); }), std::runtime_error, message);
  CHECK_THROWS(run_block(32, [] { __syncwarp(1); }), std::runtime_error, message);
}

TEST(launch_partial_warp_is_an_error) {
  for (const int threads : {0, 31, 33, 1056})
    CHECK_THROWS(run_block(threads, [] {}), std::runtime_error,
                 "kernel: a block must have 32 to 1024 threads, a multiple of 32");
  run_block(1024, [] { __syncthreads(); });
}

TEST(launch_with_more_shared_memory_than_every_gpu_has_is_an_error) {
  CHECK_THROWS(run_block(
                   32, [] {}, 99 * 1024 + 1),
               std::runtime_error, "kernel: a block may have 99 KiB of shared memory, got 101377 bytes");
  run_block(32, [] {}, 99 * 1024);
}

TEST(warp_shuffles_exchange_values) {
  const AscendingAfterwards afterwards;
  for (const Order order : kOrders) {
    emulation::set_order(order, 2);
    emulation::run("exchanges", 1, 64, 0, [] {
      const int lane = lane_index(), own = 100 * warp_index() + lane;
      for (int mask = 1; mask < 32; ++mask) {  // back to back: an exchange must not overwrite the previous one
        CHECK_EQ(__shfl_xor_sync(kFullWarp, own + mask, mask), 100 * warp_index() + (lane ^ mask) + mask);
        CHECK_EQ(__shfl_up_sync(kFullWarp, 1.5 * own, mask), 1.5 * (lane >= mask ? own - mask : own));
      }
      CHECK_EQ(__ballot_sync(kFullWarp, lane % 3 == 0), 0x49249249u);
      CHECK_EQ(__ballot_sync(kFullWarp, lane == 31 && warp_index() == 1), warp_index() == 1 ? 0x80000000u : 0u);
      CHECK_EQ(__popc(0x49249249u), 11);
    });
  }
}

TEST(barrier_reports_whether_any_thread_holds) {
  const AscendingAfterwards afterwards;
  for (const Order order : kOrders) {
    emulation::set_order(order, 3);
    emulation::run("any", 1, 64, 0, [] {
      for (unsigned round = 0; round < 64; ++round) {
        CHECK(__syncthreads_or(threadIdx.x == round));
        CHECK(!__syncthreads_or(false));
      }
    });
  }
}

TEST(async_copy_arrives_when_waited_for) {
  alignas(16) static const int source[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  emulation::run("copies", 1, 32, 32, [] {
    const auto* shared = reinterpret_cast<const int*>(shared_memory());
    if (threadIdx.x == 0) {
      cp_async_16(shared_memory(), source);
      cp_async_commit();
      cp_async_16(shared_memory() + 16, source + 4);
      CHECK_EQ(shared[0], -1);  // the initial value of shared memory
      cp_async_wait<1>();       // one group may be pending, so none need have arrived
      CHECK_EQ(shared[0], -1);
      cp_async_commit();
      cp_async_wait<2>();
      CHECK_EQ(shared[0], -1);
      cp_async_wait<1>();
      for (int i = 0; i < 4; ++i) CHECK_EQ(shared[i], source[i]);
      CHECK_EQ(shared[4], -1);
      cp_async_wait<0>();
      for (int i = 4; i < 8; ++i) CHECK_EQ(shared[i], source[i]);
    }
  });
}

TEST(async_copy_not_waited_for_is_an_error) {
  alignas(16) static const int source[8] = {};
  const std::string message = "kernel: a thread ended before its copies arrived";
  const auto no_group = [] { cp_async_16(shared_memory() + 16 * threadIdx.x, source); };
  const auto two_groups_may_be_open = [] {
    cp_async_16(shared_memory() + 16 * threadIdx.x, source);
    cp_async_commit();
    cp_async_commit();
    cp_async_wait<2>();
  };
  CHECK_THROWS(run_block(32, no_group), std::runtime_error, message);
  CHECK_THROWS(run_block(32, two_groups_may_be_open), std::runtime_error, message);
  run_block(32, [] {
    cp_async_16(shared_memory() + 16 * threadIdx.x, source);
    cp_async_commit();
    cp_async_wait<0>();
  });
}

TEST(async_copy_misaligned_is_an_error) {
  alignas(16) static const int source[12] = {};
  const std::string message = "kernel: a copy of 16 bytes is not aligned to 16";
  CHECK_THROWS(run_block(32, [] { cp_async_16(shared_memory() + 8, source); }), std::runtime_error, message);
  CHECK_THROWS(run_block(32, [] { cp_async_16(shared_memory(), source + 1); }), std::runtime_error, message);
  CHECK_THROWS(run_block(32, [] { load_shared_16(shared_memory() + 4); }), std::runtime_error,
               "kernel: a load of 16 bytes is not aligned to 16");
}

TEST(shared_memory_has_exact_size_and_starts_as_nan) {
  for (const size_t size : {size_t{8}, size_t{40}, size_t{128}, size_t{50000}}) {
    emulation::run("shared", 3, 32, size, [size] {
      for (size_t i = 0; i < size; ++i) CHECK_EQ(shared_memory()[i], '\xff');
      __syncthreads();
      if (threadIdx.x == 0) std::memset(shared_memory(), 0, size);  // the next block sees NaNs again
#if defined(__SANITIZE_ADDRESS__)
      CHECK(!__asan_address_is_poisoned(shared_memory() + size - 1));
      CHECK(__asan_address_is_poisoned(shared_memory() + size));
      CHECK(__asan_address_is_poisoned(shared_memory() - 1));
#endif
    });
  }
}

TEST(launch_is_counted_and_limits_blocks) {
  static int64_t blocks;
  const auto run = [](int64_t asked, int64_t most) {
    blocks = 0;
    launch(
        "grid", +[](int64_t threads) { blocks += threadIdx.x == 0 && blockDim.x == threads; }, {asked, 32},
        Stream{most}, int64_t{32});
    return blocks;
  };
  emulation::take_launch_count();
  CHECK_EQ(run(7, kMaxBlocks), 7);
  CHECK_EQ(run(7, 3), 3);
  CHECK_EQ(run(0, 3), 0);
  CHECK_EQ(emulation::take_launch_count(), 2);
  CHECK_EQ(emulation::take_launch_count(), 0);
}

TEST(bfloat16_conversion_rounds_to_nearest_even) {
  CHECK_EQ(bits_of<BFloat16>(1), 0x3f80u);
  CHECK_EQ(bits_of<BFloat16>(-2), 0xc000u);
  CHECK_EQ(bits_of<BFloat16>(-0.0F), 0x8000u);
  CHECK_EQ(bits_of<BFloat16>(1 + 0x1p-8F), 0x3f80u);  // ties to even
  CHECK_EQ(bits_of<BFloat16>(1 + 3 * 0x1p-8F), 0x3f82u);
  CHECK_EQ(bits_of<BFloat16>(1 + 0x1p-8F + 0x1p-20F), 0x3f81u);
  CHECK_EQ(bits_of<BFloat16>(std::numeric_limits<float>::max()), 0x7f80u);
  CHECK_EQ(bits_of<BFloat16>(0x1p-133F), 0x0001u);
  CHECK(std::isnan(to_acc(from_acc<BFloat16>(std::nanf("")))));
  CHECK_EQ(to_acc(BFloat16{0x4049}), 3.140625F);
}

TEST(float16_conversion_rounds_to_nearest_even) {
  CHECK_EQ(bits_of<Float16>(1), 0x3c00u);
  CHECK_EQ(bits_of<Float16>(-2), 0xc000u);
  CHECK_EQ(bits_of<Float16>(-0.0F), 0x8000u);
  CHECK_EQ(bits_of<Float16>(1 + 0x1p-11F), 0x3c00u);  // ties to even
  CHECK_EQ(bits_of<Float16>(1 + 3 * 0x1p-11F), 0x3c02u);
  CHECK_EQ(bits_of<Float16>(2 - 0x1p-11F), 0x4000u);
  CHECK_EQ(bits_of<Float16>(65504), 0x7bffu);
  CHECK_EQ(bits_of<Float16>(65519), 0x7bffu);
  CHECK_EQ(bits_of<Float16>(65520), 0x7c00u);
  CHECK_EQ(bits_of<Float16>(-1e30F), 0xfc00u);
  CHECK_EQ(bits_of<Float16>(0x1p-14F), 0x0400u);
  CHECK_EQ(bits_of<Float16>(0x1p-14F - 0x1p-24F), 0x03ffu);
  CHECK_EQ(bits_of<Float16>(0x1p-14F - 0x1p-26F), 0x0400u);
  CHECK_EQ(bits_of<Float16>(0x1p-24F), 0x0001u);
  CHECK_EQ(bits_of<Float16>(0x1p-25F), 0x0000u);
  CHECK_EQ(bits_of<Float16>(3 * 0x1p-25F), 0x0002u);
  CHECK(std::isnan(to_acc(from_acc<Float16>(std::nanf("")))));
  CHECK_EQ(to_acc(Float16{0x3555}), 0.333251953125F);
  CHECK_EQ(to_acc(Float16{0xfc00}), -std::numeric_limits<float>::infinity());
}

TEST(half_types_round_trip_every_value) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const BFloat16 b{static_cast<uint16_t>(bits)};
    const Float16 f{static_cast<uint16_t>(bits)};
    if (!std::isnan(to_acc(b))) CHECK_EQ(bits_of<BFloat16>(to_acc(b)), bits);
    if (!std::isnan(to_acc(f))) CHECK_EQ(bits_of<Float16>(to_acc(f)), bits);
  }
}

TEST(tf32_conversion_rounds_ties_away_from_zero) {
  CHECK_EQ(tf32_of(1), 0x3f800000u);
  CHECK_EQ(tf32_of(1 + 0x1p-10F), 0x3f802000u);
  CHECK_EQ(tf32_of(1 + 0x1p-11F), 0x3f802000u);  // ties away from zero
  CHECK_EQ(tf32_of(-1 - 0x1p-11F), 0xbf802000u);
  CHECK_EQ(tf32_of(1 + 3 * 0x1p-11F), 0x3f804000u);
  CHECK_EQ(tf32_of(1 + 0x1p-11F - 0x1p-23F), 0x3f800000u);
  CHECK_EQ(tf32_of(2 - 0x1p-20F), 0x40000000u);
  CHECK_EQ(tf32_of(-std::numeric_limits<float>::infinity()), 0xff800000u);
}

namespace {

// One mma instruction, with fragments as cuda/device/device.h describes them, compared with the product.
template <int kNumbers, class Encode, class Multiply>
void check_product(const Encode& encode, const Multiply& multiply) {
  constexpr int kDepth = 8 * kNumbers;
  test::Random random(7);
  float a[16][kDepth], b[kDepth][8], d[16][8], want[16][8];
  for (auto& row : a)
    for (float& x : row) x = static_cast<float>(random.below(9) - 4);
  for (auto& row : b)
    for (float& x : row) x = static_cast<float>(random.below(9) - 4);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      d[i][j] = want[i][j] = static_cast<float>(random.below(100));
      for (int k = 0; k < kDepth; ++k) want[i][j] += a[i][k] * b[k][j];
    }
  // The first number of a word is in its lowest bits.
  const auto word = [&](const auto& at, int w) {
    uint32_t bits = 0;
    for (int n = 0; n < kNumbers; ++n) bits |= encode(at(w * kNumbers + n)) << (32 / kNumbers * n);
    return bits;
  };
  emulation::run("product", 1, 32, 0, [&] {
    const int g = lane_index() / 4, t = lane_index() % 4;
    Words words;
    uint32_t columns[2];
    for (int i = 0; i < 2; ++i) {
      for (int h = 0; h < 2; ++h) words.at[h + 2 * i] = word([&](int k) { return a[g + 8 * h][k]; }, t + 4 * i);
      columns[i] = word([&](int k) { return b[k][g]; }, t + 4 * i);
    }
    multiply(d[g][2 * t], d[g][2 * t + 1], d[g + 8][2 * t], d[g + 8][2 * t + 1], words, columns[0], columns[1]);
  });
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) CHECK_EQ(d[i][j], want[i][j]);
}

}  // namespace

TEST(tensor_core_mma_multiplies) {
  check_product<2>([](float x) { return bits_of<BFloat16>(x); }, mma_m16n8k16_bf16);
  check_product<2>([](float x) { return bits_of<Float16>(x); }, mma_m16n8k16_f16);
  // Bits below the ten that the tensor cores read have no effect.
  check_product<1>([](float x) { return tf32_of(x) | 0x1fff; }, mma_m16n8k8_tf32);
}
