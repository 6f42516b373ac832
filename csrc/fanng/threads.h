// A thread pool whose calling thread waits, and polls a few times per second whether to stop.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "core/int_math.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::fanng {

class Threads final : public cpu::ThreadPool {
 public:
  // `poll` is called on the calling thread a few times per second, across calls of `run`. An exception of `poll` stops
  // the work, and `run` rethrows it.
  Threads(int64_t count, std::function<void()> poll)
      : count_(count), poll_(std::move(poll)), next_poll_(Clock::now() + kBetweenPolls) {}

  int64_t count() const override { return count_; }
  bool cancelled() const override { return cancelled_.load(std::memory_order_relaxed); }

  // If the system allows fewer threads, these take the workers in turn. Throws std::runtime_error if it allows none.
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    std::mutex mutex;
    std::condition_variable done;
    std::atomic<int64_t> next{0};
    int64_t running = 0;
    std::exception_ptr error;
    const auto work = [&] {
      std::exception_ptr thrown;
      try {
        for (int64_t worker; (worker = next.fetch_add(1)) < workers;) body(worker);
      } catch (...) {
        thrown = std::current_exception();
        cancelled_ = true;
      }
      const std::lock_guard lock(mutex);
      if (thrown && !error) error = thrown;
      if (--running == 0) done.notify_one();
    };
    std::vector<std::jthread> threads;
    try {
      start(workers, work, mutex, running, threads);
      const auto over = [&] {
        std::unique_lock lock(mutex);
        return done.wait_until(lock, next_poll_, [&] { return running == 0; });
      };
      for (bool finished = false; !finished;) {
        finished = over();
        if (Clock::now() < next_poll_) continue;
        poll_();
        next_poll_ = Clock::now() + kBetweenPolls;
      }
    } catch (...) {  // thrown by poll_ or start
      cancelled_ = true;
      threads.clear();  // joins
      throw;
    }
    threads.clear();
    if (error) std::rethrow_exception(error);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kBetweenPolls{100};

  template <class Work>
  static void start(int64_t count, const Work& work, std::mutex& mutex, int64_t& running,
                    std::vector<std::jthread>& threads) {
    while (static_cast<int64_t>(threads.size()) < count) {
      const std::lock_guard lock(mutex);
      try {
        threads.emplace_back(work);
      } catch (const std::system_error& problem) {
        if (!threads.empty()) return;
        throw std::runtime_error("cannot start thread 1 of " + std::to_string(count) + " (" + problem.code().message() +
                                 "): this process may have no more threads, or no memory for the stack of one");
      }
      ++running;
    }
  }

  int64_t count_;
  std::function<void()> poll_;
  mutable Clock::time_point next_poll_;  // `run` must have one caller at a time
  mutable std::atomic<bool> cancelled_{false};
};

// The pool of a task that has one thread of another pool.
class OwnThread final : public cpu::ThreadPool {
 public:
  explicit OwnThread(const cpu::ThreadPool& whole) : whole_(whole) {}
  int64_t count() const override { return 1; }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    for (int64_t worker = 0; worker < workers; ++worker) body(worker);
  }
  bool cancelled() const override { return whole_.cancelled(); }

 private:
  const cpu::ThreadPool& whole_;
};

// Calls body(worker, begin, end) for chunks of [0, count) of `step` each, until cancelled. A single worker also runs in
// the pool, so that the calling thread polls.
template <class Body>
void parallel_chunks(const cpu::ThreadPool& pool, int64_t count, int64_t step, const Body& body) {
  const int64_t chunks = ceil_div(count, step);
  if (chunks < 1) return;
  std::atomic<int64_t> next{0};
  pool.run(std::min(pool.count(), chunks), [&](int64_t worker) {
    for (int64_t chunk; !pool.cancelled() && (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;)
      body(worker, chunk * step, std::min(count, (chunk + 1) * step));
  });
}

}  // namespace hardmine::fanng
