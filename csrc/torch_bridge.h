// What every op's wrapper needs of torch: tensors as checked, contiguous arrays.
//
// The Python faces check arguments and explain errors; the checks here keep a direct call of torch.ops.hardmine.* from
// reading out of bounds.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <stdexcept>
#include <string>

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

inline void check(bool ok, const std::string& message) {
  if (!ok) throw std::invalid_argument(message);
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

// Most tensors are contiguous already, which costs less to ask than to have the dispatcher find out.
inline Tensor contiguous_array(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline Tensor as_array(const Tensor& t, ScalarType type) {
  return contiguous_array(t.scalar_type() == type ? t : torch::stable::to(t, type));
}

inline Tensor new_array(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(like, torch::headeronly::IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), type);
}

template <class T>
const T* data(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline void check_matrix(const char* name, const Tensor& t, int64_t depth) {
  if (!is_here(t)) check(false, std::string(name) + " must be on the " + kHere + ", as embeddings are");
  if (t.dim() != 2 || t.size(1) < 1 || (depth >= 0 && t.size(1) != depth))
    check(false, std::string(name) + " must be [rows, D] with D = " +
                     (depth < 0 ? "1 or more" : std::to_string(depth)) + ", got " + shape_of(t));
  if (t.size(0) >= kAtLowerBound)
    check(false, std::string(name) + " must have fewer than 2^31 - 1 rows, got " + shape_of(t));
}

inline void check_vector(const char* name, const Tensor& t, int64_t count, ScalarType type) {
  if (is_here(t) && t.scalar_type() == type && t.dim() == 1 && t.size(0) == count) return;
  check(false, std::string(name) + " must be a " + kHere + " tensor [" + std::to_string(count) +
                   "] of its op's type, got " + shape_of(t));
}

inline void check_pairs(const char* name, const Tensor& t, int64_t count, ScalarType type) {
  if (is_here(t) && t.scalar_type() == type && t.dim() == 2 && t.size(0) == count) return;
  check(false, std::string(name) + " must be a " + kHere + " tensor [" + std::to_string(count) +
                   ", K] of its op's type, got " + shape_of(t));
}

inline void check_same_device(const char* name, const Tensor& t, const Tensor& embeddings) {
  if (t.get_device_index() == embeddings.get_device_index()) return;
  check(false, std::string(name) + " must be on the device of embeddings, " + kHere + " " +
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

}  // namespace hardmine
