// An op's temporary memory. The provider keeps it until the work on the op's stream is done.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hardmine::cuda {

class Workspace {
 public:
  virtual ~Workspace() = default;
  // Device memory aligned to 256 bytes, not initialized.
  virtual void* allocate(int64_t bytes) = 0;

  template <class T>
  T* array(int64_t count) {
    return static_cast<T*>(allocate(count * static_cast<int64_t>(sizeof(T))));
  }
};

}  // namespace hardmine::cuda
