// Threads for functions called from Python: the GIL is released, and Ctrl-C stops the work.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "fanng/threads.h"

namespace hardmine::fanng {

template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style | pybind11::array::forcecast>;

inline void poll_signals() {
  const pybind11::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
}

// Runs small work on the calling thread, where starting a thread would cost more.
class CallingThread final : public cpu::ThreadPool {
 public:
  int64_t count() const override { return 1; }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    for (int64_t worker = 0; worker < workers; ++worker) body(worker);
  }
};
constexpr int64_t kMinThreadedWork = 1 << 16;  // distances

// Calls body(pool) without the GIL. `work` is in distances.
template <class Body>
void on_threads(int64_t threads, double work, const Body& body) {
  const pybind11::gil_scoped_release nogil;
  work < kMinThreadedWork ? body(CallingThread()) : body(Threads(threads, poll_signals));
}

}  // namespace hardmine::fanng
