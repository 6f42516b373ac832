// The threads of an engine call: torch's threads under torch, other threads in the graph index and in tests.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>

#include "core/errors.h"
#include "core/int_math.h"

namespace hardmine::cpu {

class ThreadPool {
 public:
  virtual ~ThreadPool() = default;
  virtual int64_t count() const = 0;
  // Calls body(worker) for each worker in [0, workers), in parallel as far as there are threads. `body` must not throw.
  virtual void run(int64_t workers, const std::function<void(int64_t worker)>& body) const = 0;
  // True if the caller no longer wants the result. Workers check between tasks, and end early. On the calling thread
  // the check may take a while, since it looks for signals.
  virtual bool cancelled() const { return false; }
  // What the least work of a thread is multiplied with. Tests make it small, so that small inputs are divided.
  virtual double grain_factor() const { return 1; }
};

inline void throw_if_cancelled(const ThreadPool& pool) {
  if (pool.cancelled()) throw Cancelled();
}

// The number of rows that a worker processes between two checks for cancellation: milliseconds in every loop.
inline constexpr int64_t kRowsPerChunk = 128;

// The number of threads for `work` units of work, if starting a thread costs as much as `grain` units.
inline int64_t thread_count_for(const ThreadPool& pool, double work, double grain) {
  return std::clamp<int64_t>(static_cast<int64_t>(work / (grain * pool.grain_factor())), 1, pool.count());
}

// The first exception that a worker of a loop throws. It ends the loop and is rethrown on the calling thread.
class FirstException {
 public:
  template <class Work>
  void run(const ThreadPool& pool, int64_t threads, const Work& work) {
    if (threads <= 1) return work(0);
    pool.run(threads, [&](int64_t worker) {
      try {
        work(worker);
      } catch (...) {
        if (!thrown_.exchange(true)) exception_ = std::current_exception();
      }
    });
    if (exception_) std::rethrow_exception(exception_);
  }
  bool thrown() const { return thrown_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> thrown_{false};
  std::exception_ptr exception_;
};

// Calls body(begin, end) for chunks of [0, count), of about `chunk` each, on boundaries that are multiples of `step`.
// Each thread gets an equal part, and checks for cancellation between its chunks. Throws Cancelled, and what `body`
// throws.
inline void parallel_range(const ThreadPool& pool, int64_t threads, int64_t count, int64_t step,
                           const std::function<void(int64_t begin, int64_t end)>& body, int64_t chunk = kRowsPerChunk) {
  if (count <= 0) return;
  if (count <= step) threads = 1;
  if (threads <= 1 && count <= chunk) return body(0, count);
  chunk = std::max(chunk / step, int64_t{1}) * step;
  const int64_t steps = ceil_div(count, step);
  FirstException exception;
  exception.run(pool, threads, [&](int64_t worker) {
    const int64_t end = std::min(count, steps * (worker + 1) / threads * step);
    int64_t begin = steps * worker / threads * step;
    for (; begin < end && !exception.thrown() && !pool.cancelled(); begin += chunk)
      body(begin, std::min(begin + chunk, end));
  });
  throw_if_cancelled(pool);
}

// Calls body(worker, task) for each task in [0, tasks). Free workers take the next task. Throws Cancelled, and what
// `body` throws.
template <class Body>
void parallel_tasks(const ThreadPool& pool, int64_t threads, int64_t tasks, const Body& body) {
  std::atomic<int64_t> next{0}, done{0};
  FirstException exception;
  const auto is_over = [&] { return exception.thrown() || pool.cancelled(); };
  exception.run(pool, threads, [&](int64_t worker) {
    for (int64_t task; !is_over() && (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      body(worker, task);
      done.fetch_add(1, std::memory_order_relaxed);
    }
    // Worker 0 may be on the calling thread, the only one that looks for signals, so it keeps checking to the end.
    while (worker == 0 && done.load(std::memory_order_relaxed) < tasks && !is_over()) std::this_thread::yield();
  });
  throw_if_cancelled(pool);
}

}  // namespace hardmine::cpu
