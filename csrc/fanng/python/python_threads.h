// Arrays and threads for functions called from Python. The GIL is released during the work, and Ctrl-C stops it.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <initializer_list>
#include <memory>

#include "fanng/threads.h"

namespace hardmine::fanng {

// An array that is read; another dtype or layout is converted.
template <class T>
using Array = nanobind::ndarray<const T, nanobind::c_contig, nanobind::device::cpu>;

// A new numpy array.
template <class T>
using NewArray = nanobind::ndarray<nanobind::numpy, T>;

template <class T>
NewArray<T> new_array(std::initializer_list<size_t> shape) {
  size_t size = 1;
  for (const size_t extent : shape) size *= extent;
  std::unique_ptr<T[]> data(new T[size]);
  const nanobind::capsule owner(data.get(), [](void* array) noexcept { delete[] static_cast<T*>(array); });
  return NewArray<T>(data.release(), shape, owner);
}

template <class T>
NewArray<T> copy_of(const T* data, std::initializer_list<size_t> shape) {
  NewArray<T> copy = new_array<T>(shape);
  std::copy_n(data, copy.size(), copy.data());
  return copy;
}

inline void poll_signals() {
  const nanobind::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
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
  const nanobind::gil_scoped_release nogil;
  work < kMinThreadedWork ? body(CallingThread()) : body(Threads(threads, poll_signals));
}

}  // namespace hardmine::fanng
