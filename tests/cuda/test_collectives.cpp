// The collectives of a warp, a block and a grid against plain loops, in every order of threads.

#include "cuda/device/collectives.h"

#include <numeric>
#include <vector>

#include "cuda/device/launch.h"
#include "emulation.h"
#include "support/check.h"

using namespace hardmine;
using namespace hardmine::cuda;
using emulation::Order;

namespace {

constexpr int kThreads = 96, kWarps = kThreads / 32;
constexpr size_t kShared = 4 * kMaxWarps * sizeof(double);

// Runs a kernel of `blocks` blocks in every order of threads and of blocks.
template <class Kernel>
void in_every_order(int64_t blocks, const Kernel& kernel) {
  for (const Order order : {Order::kAscending, Order::kDescending, Order::kShuffled}) {
    emulation::set_order(order, 11);
    emulation::run("collective", blocks, kThreads, kShared, kernel);
  }
  emulation::set_order(Order::kAscending);
}

int thread() { return static_cast<int>(threadIdx.x); }

}  // namespace

TEST(warp_collectives_combine_the_lanes_of_their_warp) {
  in_every_order(1, [] {
    const int first = thread() / 32 * 32, lane = thread() % 32;
    CHECK_EQ(warp_reduce_sum(thread()), 32 * first + 31 * 16);
    CHECK_EQ(warp_inclusive_sum(thread()), (lane + 1) * first + lane * (lane + 1) / 2);
    int count = 0;
    CHECK_EQ(warp_compact(lane % 3 == 0, &count), (lane + 2) / 3);
    CHECK_EQ(count, 11);
  });
}

TEST(block_reductions_sum_all_threads) {
  in_every_order(1, [] {
    auto* shared = reinterpret_cast<double*>(shared_memory());
    for (int round = 0; round < 3; ++round) {  // back to back: one round must not disturb the next
      double sums[2] = {static_cast<double>(thread() + round), 1};
      block_reduce_sum<2>(sums, shared);
      if (thread() == 0) CHECK(sums[0] == 95 * 48 + kThreads * round && sums[1] == kThreads);
      double all[2] = {static_cast<double>(thread() - round), -1};
      block_all_reduce_sum<2>(all, shared);
      CHECK(all[0] == 95 * 48 - kThreads * round && all[1] == -kThreads);
    }
  });
}

TEST(block_prefix_sums_and_compaction_count_the_threads_below) {
  in_every_order(1, [] {
    auto* shared = reinterpret_cast<int*>(shared_memory());
    for (int round = 0; round < 3; ++round) {
      int total = 0;
      CHECK_EQ(block_exclusive_sum(thread() + round, kWarps, shared, &total),
               thread() * (thread() - 1) / 2 + thread() * round);
      CHECK_EQ(total, 95 * 48 + kThreads * round);
      __syncthreads();
      CHECK_EQ(block_compact(thread() % 5 == round, kWarps, shared, &total), (thread() + 4 - round) / 5);
      CHECK_EQ(total, (kThreads + 4 - round) / 5);
      __syncthreads();
    }
  });
}

TEST(block_any_nonfinite_finds_a_flag_of_0) {
  for (const int64_t count : {0, 1, 95, 96, 97, 300}) {
    std::vector<int32_t> finite(static_cast<size_t>(count), 1);
    in_every_order(1, [&] { CHECK(!block_any_nonfinite(finite.data(), count)); });
    if (count == 0) continue;
    finite.back() = 0;
    in_every_order(1, [&] { CHECK(block_any_nonfinite(finite.data(), count)); });
  }
}

TEST(grid_is_last_block_holds_for_the_block_that_sees_all_partial_sums) {
  for (const int64_t blocks : {1, 2, 7, 200}) {
    std::vector<double> partial(static_cast<size_t>(2 * blocks));
    int32_t blocks_done = 0;
    int last_blocks = 0;
    in_every_order(blocks, [&] {
      if (thread() == 0) {
        partial[2 * blockIdx.x] = blockIdx.x;
        partial[2 * blockIdx.x + 1] = 1;
      }
      if (!grid_is_last_block(&blocks_done)) return;
      __syncthreads();
      double sums[2];
      block_reduce_partials<2>(partial.data(), blocks, sums, reinterpret_cast<double*>(shared_memory()));
      if (thread() != 0) return;
      CHECK(sums[0] == static_cast<double>(blocks * (blocks - 1) / 2) && sums[1] == static_cast<double>(blocks));
      std::fill(partial.begin(), partial.end(), -1);
      blocks_done = 0;
      ++last_blocks;
    });
    CHECK_EQ(last_blocks, 3);
  }
}
