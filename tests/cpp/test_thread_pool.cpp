#include "cpu/engine/thread_pool.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/check.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

TEST(parallel_range_covers_every_number_once) {
  std::vector<std::unique_ptr<cpu::ThreadPool>> pools = parallel_pools();
  pools.push_back(std::make_unique<SerialPool>());
  for (const auto& pool : pools) {
    for (const int64_t count : {0, 1, 5, 6, 7, 12, 97, 1000}) {
      for (const int64_t step : {1, 6, 16}) {
        std::vector<std::atomic<int>> visits(count);
        std::atomic<bool> aligned{true};
        cpu::parallel_range(*pool, pool->count(), count, step, [&](int64_t begin, int64_t end) {
          if (begin % step != 0 || (end % step != 0 && end != count) || begin >= end) aligned = false;
          if (end - begin > cpu::kRowsPerChunk) aligned = false;
          for (int64_t i = begin; i < end; ++i) ++visits[i];
        });
        CHECK(aligned);
        for (const auto& visit : visits) CHECK_EQ(visit.load(), 1);
      }
    }
  }
}

TEST(parallel_tasks_runs_every_task_once) {
  for (const auto& pool : parallel_pools()) {
    for (const int64_t tasks : {0, 1, 7, 100}) {
      std::vector<std::atomic<int>> visits(tasks);
      std::atomic<bool> known_worker{true};
      cpu::parallel_tasks(*pool, pool->count(), tasks, [&](int64_t worker, int64_t task) {
        if (worker < 0 || worker >= pool->count()) known_worker = false;
        ++visits[task];
      });
      CHECK(known_worker);
      for (const auto& visit : visits) CHECK_EQ(visit.load(), 1);
    }
  }
}

TEST(thread_count_follows_work_and_pool) {
  const ThreadedPool eight(8);
  CHECK_EQ(cpu::thread_count_for(eight, 0, 100), 1);
  CHECK_EQ(cpu::thread_count_for(eight, 199 * kGrainFactor, 100), 1);
  CHECK_EQ(cpu::thread_count_for(eight, 300 * kGrainFactor, 100), 3);
  CHECK_EQ(cpu::thread_count_for(eight, 1e15, 100), 8);
  const CountingPool two;
  CHECK_EQ(cpu::thread_count_for(two, 199, 100), 1);
  CHECK_EQ(cpu::thread_count_for(two, 200, 100), 2);
}

TEST(parallel_work_cancelled_throws) {
  std::vector<std::unique_ptr<cpu::ThreadPool>> pools = parallel_pools();
  pools.push_back(std::make_unique<SerialPool>());
  for (const auto& pool : pools) {
    for (const int64_t questions : {0, 1, 20}) {
      const CancelledPool in_tasks(*pool, questions), in_range(*pool, questions);
      std::atomic<int64_t> tasks{0}, rows{0};
      context = std::to_string(pool->count()) + " threads, " + std::to_string(questions) + " questions";
      const auto run_tasks = [&] {
        cpu::parallel_tasks(in_tasks, in_tasks.count(), 100'000, [&](int64_t, int64_t) { ++tasks; });
      };
      const auto run_range = [&] {
        cpu::parallel_range(in_range, in_range.count(), 100'000, 1,
                            [&](int64_t begin, int64_t end) { rows += end - begin; });
      };
      CHECK_THROWS(run_tasks(), Cancelled, "");
      CHECK_THROWS(run_range(), Cancelled, "");
      CHECK(tasks <= questions);
      CHECK(rows <= questions * cpu::kRowsPerChunk);
    }
  }
}

TEST(parallel_loops_with_throwing_body_end_and_rethrow) {
  std::vector<std::unique_ptr<cpu::ThreadPool>> pools = parallel_pools();
  pools.push_back(std::make_unique<SerialPool>());
  const auto message_of = [](const auto& loop) {
    try {
      loop();
    } catch (const std::runtime_error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  for (const auto& pool : pools) {
    context = std::to_string(pool->count()) + " threads";
    CHECK_EQ(message_of([&] {
               cpu::parallel_tasks(*pool, pool->count(), 100, [](int64_t, int64_t task) {
                 if (task % 10 == 7) throw std::runtime_error("task");
               });
             }),
             "task");
    CHECK_EQ(message_of([&] {
               cpu::parallel_range(*pool, pool->count(), 10'000, 1, [](int64_t begin, int64_t end) {
                 if (begin <= 7000 && 7000 < end) throw std::runtime_error("range");
               });
             }),
             "range");
  }
}
