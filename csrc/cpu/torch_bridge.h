// What every CPU op's wrapper needs: torch's threads as Workers, and tensors as checked, contiguous arrays.
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

#include "../core/options.h"
#include "../core/pair_measure.h"
#include "select.h"

namespace hardmine::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

class TorchWorkers : public Workers {
 public:
  int64_t count() const override { return static_cast<int64_t>(torch::stable::get_num_threads()); }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) body(worker);
    });
  }
};

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
  if (!t.is_cpu()) check(false, std::string(name) + " must be on the CPU, as embeddings are");
  if (t.dim() != 2 || t.size(1) < 1 || (depth >= 0 && t.size(1) != depth))
    check(false, std::string(name) + " must be [rows, D] with D = " +
                     (depth < 0 ? "1 or more" : std::to_string(depth)) + ", got " + shape_of(t));
  if (t.size(0) >= kAtLowerBound)
    check(false, std::string(name) + " must have fewer than 2^31 - 1 rows, got " + shape_of(t));
}

inline void check_vector(const char* name, const Tensor& t, int64_t count, ScalarType type) {
  if (t.is_cpu() && t.scalar_type() == type && t.dim() == 1 && t.size(0) == count) return;
  check(false, std::string(name) + " must be a CPU tensor [" + std::to_string(count) + "] of its op's type, got " +
                   shape_of(t));
}

inline void check_pairs(const char* name, const Tensor& t, int64_t count, ScalarType type) {
  if (t.is_cpu() && t.scalar_type() == type && t.dim() == 2 && t.size(0) == count) return;
  check(false, std::string(name) + " must be a CPU tensor [" + std::to_string(count) + ", K] of its op's type, got " +
                   shape_of(t));
}

// A contiguous copy of an int64 tensor with all its numbers in [least, rows).
inline Tensor checked_indices(const char* name, const Tensor& t, int64_t least, int64_t rows) {
  check(t.is_cpu() && t.scalar_type() == ScalarType::Long, std::string(name) + " must be an int64 CPU tensor");
  const Tensor indices = contiguous_array(t);
  const int64_t* index = data<int64_t>(indices);
  const int64_t count = indices.numel();
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] >= least && index[i] < rows) continue;
    check(false, std::string(name) + " must lie in [" + std::to_string(least) + ", " + std::to_string(rows) +
                     "), got " + std::to_string(index[i]));
  }
  return indices;
}

// Calls body(T{}) with the C++ type of a compute type.
template <class Body>
auto dispatch(ScalarType type, const Body& body) {
  return type == ScalarType::Double ? body(double{}) : body(float{});
}

// Rows and labels of an op's inputs, as arrays that live as long as this object.
struct SelectionInputs {
  Tensor embeddings, labels;
  std::optional<Tensor> ref_embeddings, ref_labels;
  ScalarType type;

  SelectionInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                  const std::optional<Tensor>& ref_y);

  template <class T>
  LabelledRows<T> anchors() const {
    return {data<T>(embeddings), data<int64_t>(labels), embeddings.size(0)};
  }
  template <class T>
  LabelledRows<T> refs() const {
    return {data<T>(*ref_embeddings), data<int64_t>(*ref_labels), ref_embeddings->size(0)};
  }
};

// The four tensors of a selection, and whether every input was finite.
struct SelectionTensors {
  Tensor positive_index, negative_index, positive_similarity, negative_similarity;
  bool finite;
};
// `random`: as csrc/library.cpp says.
SelectionTensors select_triplets_tensors(const SelectionRule& rule, const SelectionInputs& inputs,
                                         const std::optional<Tensor>& random);

// The pairs that gradients arrive at, as a PairList takes them.
struct PairTensors {
  std::optional<Tensor> first;  // [entries] int64; none: one entry for every row of embeddings, in their order
  Tensor second;                // [entries, partners] int64, -1: no pair
  Tensor gradient;              // [entries, partners], compute type
};

// Gradients of the embeddings and refs, in their own types; one that is not needed is empty.
// nan_if_not_finite: fill the gradients with NaN where the loss was NaN.
std::tuple<Tensor, Tensor> pair_gradient_tensors(const PairMeasure& measure, const PairTensors& pairs,
                                                 const Tensor& embeddings, const std::optional<Tensor>& ref_embeddings,
                                                 bool need_embeddings, bool need_ref_embeddings,
                                                 bool nan_if_not_finite);

// The pairs of a selection, from [B] indices and gradients of positives and negatives.
PairTensors selected_pair_tensors(const Tensor& positive_index, const Tensor& negative_index,
                                  const Tensor& grad_positive, const Tensor& grad_negative, int64_t count,
                                  ScalarType type);

}  // namespace hardmine::cpu
