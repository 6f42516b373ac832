// Memory of an op beside its inputs and outputs. Whoever provides it keeps it until what runs on the op's stream is
// done.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hardmine::cuda {

class Workspace {
 public:
  virtual ~Workspace() = default;
  // Bytes on the device, aligned to 256; not initialized.
  virtual void* allocate(int64_t bytes) = 0;

  template <class T>
  T* array(int64_t count) {
    return static_cast<T*>(allocate(count * static_cast<int64_t>(sizeof(T))));
  }
};

}  // namespace hardmine::cuda
