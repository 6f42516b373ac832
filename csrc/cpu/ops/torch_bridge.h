// Shared by the wrappers of all CPU ops: torch's threads as a ThreadPool, and the dispatch on the compute type.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "cpu/engine/thread_pool.h"
#include "cpu/ops/python_signals.h"
#include "op_tensors.h"

namespace hardmine::cpu {

// The threads of one engine call. Ctrl-C cancels it: the calling thread looks for signals a few times per second.
class TorchThreadPool : public ThreadPool {
 public:
  bool cancelled() const override {
    if (cancelled_.load(std::memory_order_relaxed)) return true;
    if (std::this_thread::get_id() != caller_) return false;
    const Clock::time_point now = Clock::now();
    if (next_look_ == Clock::time_point()) next_look_ = now + kBetweenLooks;
    if (now < next_look_) return false;
    if (python_signal_raised()) cancelled_.store(true, std::memory_order_relaxed);
    next_look_ = Clock::now() + kBetweenLooks;
    return cancelled_.load(std::memory_order_relaxed);
  }
  double grain_factor() const override { return grain_factor_of_tests(); }
  int64_t count() const override { return static_cast<int64_t>(torch::stable::get_num_threads()); }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) body(worker);
    });
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kBetweenLooks{100};

  // From the environment of tests, in which small inputs are divided. Read once, because std::getenv must not run while
  // another thread changes the environment.
  static double grain_factor_of_tests() {
    static const double factor = [] {
      const char* text = std::getenv("HARDMINE_GRAIN_FACTOR");
      const double value = text ? std::atof(text) : 1;
      return value >= 1e-6 ? value : 1;
    }();
    return factor;
  }

  const std::thread::id caller_ = std::this_thread::get_id();
  mutable Clock::time_point next_look_;  // used by the calling thread alone
  mutable std::atomic<bool> cancelled_{false};
};

// Calls body.operator()<T>() with the C++ type of a compute type.
template <class Body>
auto dispatch(ScalarType type, const Body& body) {
  return type == ScalarType::Double ? body.template operator()<double>() : body.template operator()<float>();
}

}  // namespace hardmine::cpu
