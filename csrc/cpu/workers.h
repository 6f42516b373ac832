// The threads an engine call runs on, as the engine sees them: torch's when it runs under torch, anything in the C++
// tests.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

namespace hardmine::cpu {

class Workers {
 public:
  virtual ~Workers() = default;
  virtual int64_t count() const = 0;
  // Calls body(worker) once for every worker in [0, workers), in parallel as far as there are threads. `body` must not
  // throw.
  virtual void run(int64_t workers, const std::function<void(int64_t worker)>& body) const = 0;
  // Nobody wants the result any more: tasks may end without having done their work.
  virtual bool cancelled() const { return false; }
};

// How many workers a job of `work` units is worth: starting a thread costs about as much as `grain` units.
inline int64_t workers_for(const Workers& workers, double work, double grain) {
  return std::clamp<int64_t>(static_cast<int64_t>(work / grain), 1, workers.count());
}

// body(begin, end) over [0, count) in equal shares, on boundaries that are multiples of `step`.
inline void parallel_range(const Workers& workers, int64_t threads, int64_t count, int64_t step,
                           const std::function<void(int64_t begin, int64_t end)>& body) {
  if (threads <= 1 || count <= step) {
    if (count > 0) body(0, count);
    return;
  }
  const int64_t steps = (count + step - 1) / step;
  workers.run(threads, [&](int64_t worker) {
    const int64_t begin = steps * worker / threads * step;
    const int64_t end = std::min(count, steps * (worker + 1) / threads * step);
    if (begin < end) body(begin, end);
  });
}

// body(worker, task) for every task in [0, tasks), handed out one by one to whichever worker is free.
template <class Body>
void parallel_tasks(const Workers& workers, int64_t threads, int64_t tasks, const Body& body) {
  std::atomic<int64_t> next{0};
  const auto work = [&](int64_t worker) {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(worker, task);
  };
  threads <= 1 ? work(0) : workers.run(threads, work);
}

}  // namespace hardmine::cpu
