// What every op's wrapper needs of torch: tensors as checked, contiguous arrays.
//
// The Python faces check arguments and explain errors; the checks here keep a direct call of torch.ops.hardmine.* from
// reading out of bounds.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/errors.h"
#include "core/options.h"

namespace hardmine {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Where the tensors of this library's ops are. The build of the tests that emulate a GPU has those of its ops on the
// CPU.
#if defined(HARDMINE_FOR_CUDA) && !defined(HARDMINE_EMULATES_CUDA)
#define HARDMINE_DISPATCH_KEY CUDA
inline constexpr char kHere[] = "CUDA";
inline bool is_here(const Tensor& t) { return t.is_cuda(); }
#else
#define HARDMINE_DISPATCH_KEY CPU
inline constexpr char kHere[] = "CPU";
inline bool is_here(const Tensor& t) { return t.is_cpu(); }
#endif

[[noreturn]] inline void fail(const std::string& message) { throw std::invalid_argument(message); }
inline void check(bool ok, const std::string& message) {
  if (!ok) fail(message);
}

inline std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

// The type that the engine computes in: float64 stays, everything else accumulates in float32.
inline ScalarType compute_type(const Tensor& embeddings) {
  const ScalarType type = embeddings.scalar_type();
  check(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
            type == ScalarType::BFloat16,
        "embeddings must be float32, float64, float16 or bfloat16");
  return type == ScalarType::Double ? type : ScalarType::Float;
}

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
      return "float64";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Long:
      return "int64";
    default:
      return "uint8";
  }
}

inline int64_t bytes_of(ScalarType type) {
  if (type == ScalarType::Double || type == ScalarType::Long) return 8;
  return type == ScalarType::Float ? 4 : type == ScalarType::Byte ? 1 : 2;
}

// What ailed torch when its last call failed: of torch 2.13 and later, else nothing.
inline std::string torch_error() {
  using What = const char* (*)();
  static const auto what = reinterpret_cast<What>(dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace"));
  const char* text = what ? what() : nullptr;
  return text ? std::string(": ") + text : "";
}

// The tensor that make() asks torch for. Torch's C interface says no more than which of its functions failed.
template <class Sizes, class Make>
Tensor allocated(const Sizes& sizes, ScalarType type, const Make& make) {
  try {
    return make();
  } catch (const std::runtime_error&) {
    std::string shape;
    double bytes = static_cast<double>(bytes_of(type));  // sizes may be such that int64 overflows
    for (const int64_t size : sizes) {
      shape += (shape.empty() ? "" : ", ") + std::to_string(size);
      bytes *= static_cast<double>(size);
    }
    char size[32];
    std::snprintf(size, sizeof(size), "%.0f", bytes);
    throw AllocationError("cannot allocate " + std::string(size) + " bytes for a tensor [" + shape + "] of " +
                          name_of(type) + torch_error());
  }
}

inline std::vector<int64_t> sizes_of(const Tensor& t) {
  std::vector<int64_t> sizes;
  for (int64_t d = 0; d < t.dim(); ++d) sizes.push_back(t.size(d));
  return sizes;
}

// Most tensors are contiguous already, which costs less to ask than to have the dispatcher find out.
inline Tensor contiguous_array(const Tensor& t) {
  if (t.is_contiguous()) return t;
  return allocated(sizes_of(t), t.scalar_type(), [&] { return torch::stable::contiguous(t); });
}

inline std::optional<Tensor> contiguous_array(const std::optional<Tensor>& t) {
  return t ? std::optional(contiguous_array(*t)) : std::nullopt;
}

inline Tensor as_array(const Tensor& t, ScalarType type) {
  if (t.scalar_type() == type) return contiguous_array(t);
  return contiguous_array(allocated(sizes_of(t), type, [&] { return torch::stable::to(t, type); }));
}

// A contiguous, uninitialized tensor on the device of `like`. Without the detour through the dispatcher that
// torch::stable::new_empty takes, which costs a microsecond.
inline Tensor new_array(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return allocated(sizes, type, [&] {
    std::array<int64_t, 4> strides{};
    int64_t stride = 1;
    for (size_t d = sizes.size(); d-- > 0;) {
      strides.at(d) = stride;
      stride *= std::max<int64_t>(sizes.begin()[d], 1);
    }
    int32_t device_type;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
    AtenTensorHandle array;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides.data(),
                                 torch::stable::detail::to<int32_t>(torch::stable::detail::from(type)), device_type,
                                 like.get_device_index(), &array));
    return Tensor(array);
  });
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
// Null if there is no tensor.
template <class T>
const T* data(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}
template <class T>
T* mutable_data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline void check_matrix(const char* name, const Tensor& t, int64_t depth) {
  if (!is_here(t)) fail(std::string(name) + " must be on the " + kHere + ", as embeddings are");
  if (t.dim() != 2 || t.size(1) < 1 || (depth >= 0 && t.size(1) != depth))
    fail(std::string(name) + " must be [rows, D] with D = " + (depth < 0 ? "1 or more" : std::to_string(depth)) +
         ", got " + shape_of(t));
  if (t.size(0) >= kAtLowerBound) fail(std::string(name) + " must have fewer than 2^31 - 1 rows, got " + shape_of(t));
}

inline void check_vector(const char* name, const Tensor& t, int64_t count, ScalarType type) {
  if (is_here(t) && t.scalar_type() == type && t.dim() == 1 && t.size(0) == count) return;
  fail(std::string(name) + " must be a " + kHere + " tensor [" + std::to_string(count) + "] of its op's type, got " +
       shape_of(t));
}

inline void check_pairs(const char* name, const Tensor& t, int64_t count, ScalarType type) {
  if (is_here(t) && t.scalar_type() == type && t.dim() == 2 && t.size(0) == count) return;
  fail(std::string(name) + " must be a " + kHere + " tensor [" + std::to_string(count) + ", K] of its op's type, got " +
       shape_of(t));
}

inline void check_same_device(const char* name, const Tensor& t, const Tensor& embeddings) {
  if (t.get_device_index() == embeddings.get_device_index()) return;
  fail(std::string(name) + " must be on the device of embeddings, " + kHere + " " +
       std::to_string(embeddings.get_device_index()) + ", got " + std::to_string(t.get_device_index()));
}

inline void check_loss_gradient(const Tensor& grad, const Tensor& embeddings, ScalarType type, int64_t count) {
  check(is_here(grad) && grad.scalar_type() == type && grad.numel() == count,
        "grad_loss must have the shape and dtype of the loss, got " + shape_of(grad));
  check_same_device("grad_loss", grad, embeddings);
}

// The uniform numbers of `rows` random selections, contiguous; `like`, unused, where none is random.
inline Tensor checked_random(const std::optional<Tensor>& random, int64_t rows, int64_t count, const Tensor& like) {
  if (!random && rows == 0) return like;
  check(!random || rows > 0, "random must be None where no selection is random");
  check(random && is_here(*random) && random->scalar_type() == ScalarType::Double && random->dim() == 2 &&
            random->size(0) == rows && random->size(1) == count,
        std::string("random must be a ") + kHere + " tensor [" + std::to_string(rows) + ", " + std::to_string(count) +
            "] of float64, a row for every selection that is random, got " + (random ? shape_of(*random) : "None"));
  check_same_device("random", *random, like);
  return contiguous_array(*random);
}

// The op that `function` implements, as torch calls it.
template <auto function>
struct Op;
template <class Result, class... Arguments, Result (*function)(Arguments...)>
struct Op<function> {
  static inline const char* name = "";

  static Result call(Arguments... arguments) {
    try {
      return function(std::move(arguments)...);
    } catch (const Cancelled&) {
      return Result();  // undefined tensors, for nobody: what cancelled the op is raised as soon as it returns
    } catch (const AllocationError& error) {
      throw std::runtime_error("hardmine::" + std::string(name) + ": " + error.what());
    } catch (const std::bad_alloc&) {
      throw std::runtime_error("hardmine::" + std::string(name) +
                               ": cannot allocate workspace for a few numbers per row");
    }
  }
};

template <auto function, class Library>
void implement(Library& library, const char* name) {
  Op<function>::name = name;
  library.impl(name, TORCH_BOX(&Op<function>::call));
}

}  // namespace hardmine
