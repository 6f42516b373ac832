// Workspace of an op. A failed allocation throws AllocationError with the number of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "core/errors.h"

namespace hardmine::cpu {

// Cache-line aligned and uninitialized, so that the threads that fill the buffer touch its pages first.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(
            ::operator new(static_cast<size_t>(size) * sizeof(T), std::align_val_t{64}, std::nothrow))) {
    if (!data_) fail_to_allocate_workspace(static_cast<size_t>(size) * sizeof(T));
  }
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<T, Free> data_;
};

template <class T>
struct WorkspaceAllocator {
  using value_type = T;

  WorkspaceAllocator() = default;
  template <class U>
  WorkspaceAllocator(const WorkspaceAllocator<U>&) {}  // NOLINT: containers convert it implicitly

  T* allocate(size_t size) {
    void* const memory = ::operator new(size * sizeof(T), std::nothrow);
    if (!memory) fail_to_allocate_workspace(size * sizeof(T));
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { ::operator delete(memory); }
  bool operator==(const WorkspaceAllocator&) const = default;
};

// A vector whose size grows with the number of rows.
template <class T>
using WorkspaceVector = std::vector<T, WorkspaceAllocator<T>>;

}  // namespace hardmine::cpu
