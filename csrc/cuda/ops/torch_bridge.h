// Shared by the wrappers of all CUDA ops: torch's stream and device, memory from torch's allocator, and inputs as
// arrays.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <vector>

#include "cuda/device/launch.h"
#include "cuda/gemm/mma_policy.h"
#include "op_tensors.h"

namespace hardmine::cuda {

// Selects a tensor's device and current stream while an op runs, and allocates memory there. torch's allocator takes
// the memory back when the op returns, and reuses it for later work on the same stream only.
class OpContext : public Workspace {
 public:
#ifdef __CUDACC__
  explicit OpContext(const Tensor& like) : like_(like), guard_(like.get_device_index()) {
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &handle));
    stream_.handle = static_cast<cudaStream_t>(handle);
  }
#else
  explicit OpContext(const Tensor& like) : like_(like) {}
#endif

  void* allocate(int64_t bytes) override {
    memory_.push_back(new_array(like_, {std::max<int64_t>(bytes, 1)}, ScalarType::Byte));
    return memory_.back().mutable_data_ptr();
  }
  const Stream& stream() const { return stream_; }

 private:
  Tensor like_;
#ifdef __CUDACC__
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  Stream stream_;
  std::vector<Tensor> memory_;
};

// The type that sums over rows of Scalar are in.
template <class Scalar>
using AccumulatorOf = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;

// Calls body.template operator()<Scalar>() with the C++ type of the embeddings.
template <class Body>
void with_scalar(ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Double:
      return body.template operator()<double>();
    case ScalarType::Float:
      return body.template operator()<float>();
    case ScalarType::Half:
      return body.template operator()<Float16>();
    default:
      return body.template operator()<BFloat16>();
  }
}

// Calls body<MmaPolicy, Scalar>(). Squared differences never use tensor cores, whose inner products lose
// the digits of close rows.
template <class Body>
void with_mma_policy(ScalarType type, bool squared_differences, bool allow_tf32, const Body& body) {
  with_scalar(type, [&]<class Scalar>() {
    if constexpr (std::is_same_v<Scalar, double>) {
      squared_differences ? body.template operator()<DoubleSquaredDifferences, Scalar>()
                          : body.template operator()<DoubleProducts, Scalar>();
    } else {
      if (squared_differences) return body.template operator()<FloatSquaredDifferences, Scalar>();
      if constexpr (std::is_same_v<Scalar, float>) {
        allow_tf32 ? body.template operator()<Tf32Products, Scalar>()
                   : body.template operator()<FloatProducts, Scalar>();
      } else if constexpr (std::is_same_v<Scalar, Float16>) {
        body.template operator()<Float16Products, Scalar>();
      } else {
        body.template operator()<Bfloat16Products, Scalar>();
      }
    }
  });
}

}  // namespace hardmine::cuda
