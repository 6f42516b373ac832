// The threads an engine call runs on, as the engine sees them: torch's when it runs under torch, anything in the C++
// tests.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "core/errors.h"
#include "core/int_math.h"

namespace hardmine::cpu {

class Workers {
 public:
  virtual ~Workers() = default;
  virtual int64_t count() const = 0;
  // Calls body(worker) once for every worker in [0, workers), in parallel as far as there are threads. `body` must not
  // throw.
  virtual void run(int64_t workers, const std::function<void(int64_t worker)>& body) const = 0;
  // Nobody wants the result any more: tasks may end without having done their work. Workers ask between tasks; on the
  // calling thread the answer may take a while, since the question whether to stop is put there.
  virtual bool cancelled() const { return false; }
};

inline void throw_if_cancelled(const Workers& workers) {
  if (workers.cancelled()) throw Cancelled();
}

// Rows that a worker takes between two questions whether to stop: milliseconds, whatever is done with a row.
inline constexpr int64_t kRowsAPiece = 128;

// How many workers a job of `work` units is worth: starting a thread costs about as much as `grain` units.
inline int64_t workers_for(const Workers& workers, double work, double grain) {
  return std::clamp<int64_t>(static_cast<int64_t>(work / grain), 1, workers.count());
}

// body(begin, end) over [0, count) in equal shares, on boundaries that are multiples of `step`; a share in pieces of
// about `piece`, between which cancelled work ends. Throws Cancelled.
inline void parallel_range(const Workers& workers, int64_t threads, int64_t count, int64_t step,
                           const std::function<void(int64_t begin, int64_t end)>& body, int64_t piece = kRowsAPiece) {
  if (count <= 0) return;
  if (count <= step) threads = 1;
  if (threads <= 1 && count <= piece) return body(0, count);
  piece = std::max(piece / step, int64_t{1}) * step;
  const int64_t steps = ceil_div(count, step);
  const auto work = [&](int64_t worker) {
    const int64_t end = std::min(count, steps * (worker + 1) / threads * step);
    for (int64_t begin = steps * worker / threads * step; begin < end && !workers.cancelled(); begin += piece)
      body(begin, std::min(begin + piece, end));
  };
  threads <= 1 ? work(0) : workers.run(threads, work);
  throw_if_cancelled(workers);
}

// body(worker, task) for every task in [0, tasks), handed out one by one to whichever worker is free, until the work is
// cancelled. Throws Cancelled.
template <class Body>
void parallel_tasks(const Workers& workers, int64_t threads, int64_t tasks, const Body& body) {
  std::atomic<int64_t> next{0}, done{0};
  const auto work = [&](int64_t worker) {
    for (int64_t task; !workers.cancelled() && (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      body(worker, task);
      done.fetch_add(1, std::memory_order_relaxed);
    }
    // Whichever is the calling thread goes on asking while others work. Tasks that are handed out are being done.
    while (worker == 0 && done.load(std::memory_order_relaxed) < tasks && !workers.cancelled())
      std::this_thread::yield();
  };
  threads <= 1 ? work(0) : workers.run(threads, work);
  throw_if_cancelled(workers);
}

}  // namespace hardmine::cpu
