// Threads that long work runs on while the calling thread waits, and looks now and then whether it should stop.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "../cpu/workers.h"

namespace hardmine::fanng {

class Threads final : public cpu::Workers {
 public:
  // `poll` runs on the calling thread, a few times a second, however short the single runs are; what it throws stops
  // the work and is thrown by run.
  Threads(int64_t count, std::function<void()> poll)
      : count_(count), poll_(std::move(poll)), next_poll_(Clock::now() + kBetweenPolls) {}

  int64_t count() const override { return count_; }
  bool cancelled() const override { return cancelled_.load(std::memory_order_relaxed); }

  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    std::mutex mutex;
    std::condition_variable done;
    int64_t running = workers;
    std::exception_ptr error;
    const auto work = [&](int64_t worker) {
      std::exception_ptr thrown;
      try {
        body(worker);
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
      for (int64_t worker = 0; worker < workers; ++worker) threads.emplace_back(work, worker);
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
    } catch (...) {  // from poll, or no thread could be started
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

  int64_t count_;
  std::function<void()> poll_;
  mutable Clock::time_point next_poll_;  // `run` has one caller at a time
  mutable std::atomic<bool> cancelled_{false};
};

// body(worker, begin, end) over [0, count) in pieces of `step`, until the work is cancelled. A single worker is run,
// too, so that somebody polls while it works.
template <class Body>
void parallel_pieces(const cpu::Workers& workers, int64_t count, int64_t step, const Body& body) {
  const int64_t pieces = (count + step - 1) / step;
  if (pieces < 1) return;
  std::atomic<int64_t> next{0};
  workers.run(std::min(workers.count(), pieces), [&](int64_t worker) {
    for (int64_t piece; !workers.cancelled() && (piece = next.fetch_add(1, std::memory_order_relaxed)) < pieces;)
      body(worker, piece * step, std::min(count, (piece + 1) * step));
  });
}

}  // namespace hardmine::fanng
