// Thread pools of several kinds, for tests that results do not depend on the pool.
#pragma once

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/engine/thread_pool.h"

namespace hardmine::test {

// The grain of the pools that claim to have threads, relative to that of users' calls: small inputs are divided, too.
inline constexpr double kGrainFactor = 1.0 / 16;

class SerialPool final : public cpu::ThreadPool {
 public:
  int64_t count() const override { return 1; }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    for (int64_t worker = 0; worker < workers; ++worker) body(worker);
  }
};

// Claims many threads and runs them one after the other, the last one first.
class ReversePool final : public cpu::ThreadPool {
 public:
  int64_t count() const override { return 64; }
  double grain_factor() const override { return kGrainFactor; }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    for (int64_t worker = workers; worker-- > 0;) body(worker);
  }
};

// Real threads that all start at once, so that even short tasks are spread over them.
class ThreadedPool final : public cpu::ThreadPool {
 public:
  explicit ThreadedPool(int64_t count) : count_(count) {}
  int64_t count() const override { return count_; }
  double grain_factor() const override { return kGrainFactor; }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    std::barrier start(workers);
    std::vector<std::thread> threads;
    for (int64_t worker = 0; worker < workers; ++worker) {
      threads.emplace_back([&body, &start, worker] {
        start.arrive_and_wait();
        body(worker);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  int64_t count_;
};

// Has two threads, as users' pools do, runs serially, and counts the parallel regions.
class CountingPool final : public cpu::ThreadPool {
 public:
  int64_t count() const override { return 2; }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    ++regions_;
    for (int64_t worker = 0; worker < workers; ++worker) body(worker);
  }
  int64_t regions() const { return regions_; }

 private:
  mutable int64_t regions_ = 0;
};

// Runs as another pool until it has been polled a given number of times, then is cancelled.
class CancelledPool final : public cpu::ThreadPool {
 public:
  CancelledPool(const cpu::ThreadPool& pool, int64_t questions) : pool_(pool), questions_(questions) {}
  int64_t count() const override { return pool_.count(); }
  double grain_factor() const override { return pool_.grain_factor(); }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override { pool_.run(workers, body); }
  bool cancelled() const override { return asked_.fetch_add(1) >= questions_; }
  int64_t asked() const { return asked_; }

 private:
  const cpu::ThreadPool& pool_;
  int64_t questions_;
  mutable std::atomic<int64_t> asked_{0};
};

// All pools except the serial one.
inline std::vector<std::unique_ptr<cpu::ThreadPool>> parallel_pools() {
  std::vector<std::unique_ptr<cpu::ThreadPool>> pools;
  for (const int64_t threads : {2, 3, 8}) pools.push_back(std::make_unique<ThreadedPool>(threads));
  pools.push_back(std::make_unique<ReversePool>());
  return pools;
}

}  // namespace hardmine::test
