// The emulation's device memory.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "cuda/device/launch.h"

namespace hardmine::cuda {

// Fresh memory holds NaNs, so that reads of unwritten memory are noticed.
class HostWorkspace : public Workspace {
 public:
  void* allocate(int64_t bytes) override {
    // Exactly the requested size, so that AddressSanitizer guards both ends.
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, static_cast<size_t>(bytes)) != 0) throw std::bad_alloc();
    blocks_.emplace_back(memory, std::free);
    std::memset(memory, 0xff, static_cast<size_t>(bytes));
    bytes_ += bytes;
    return blocks_.back().get();
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
  int64_t bytes_ = 0;
};

}  // namespace hardmine::cuda
