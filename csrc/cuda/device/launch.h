// What kernels run with: launches, on the GPU or in the tests' emulation, and temporary memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/device/device.h"

namespace hardmine::cuda {

// The largest grid. Kernels stride over their work, so a smaller grid does the same.
inline constexpr int64_t kMaxBlocks = int64_t{1} << 30;

struct Grid {
  int64_t blocks;
  int threads;
  size_t shared = 0;  // bytes per block
};

// Kernels run in the order of their launches. Only tests lower `max_blocks`.
#ifdef __CUDACC__
struct Stream {
  cudaStream_t handle = nullptr;
  int64_t max_blocks = kMaxBlocks;
};

inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears the error, or the next launch would report it
  throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error));
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Grid& grid, const Stream& stream,
            Arguments... arguments) {
  if (grid.blocks <= 0) return;
  if (grid.shared > 48 * 1024)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(grid.shared)),
               name);
  const auto blocks = static_cast<unsigned>(std::min(grid.blocks, stream.max_blocks));
  kernel<<<blocks, grid.threads, grid.shared, stream.handle>>>(arguments...);
  check_cuda(cudaGetLastError(), name);
}
#else
struct Stream {
  int64_t max_blocks = kMaxBlocks;
};

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Grid& grid, const Stream& stream,
            Arguments... arguments) {
  if (grid.blocks <= 0) return;
  emulation::run(name, std::min(grid.blocks, stream.max_blocks), grid.threads, grid.shared,
                 [&] { kernel(arguments...); });
}
#endif

// An op's temporary memory. The provider keeps it until the work on the op's stream is done.
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
