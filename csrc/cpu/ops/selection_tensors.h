// Labeled inputs, and selections among them, as tensors.
#pragma once

#include "cpu/engine/select_triplets.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

// The checked inputs of an op on labeled embeddings, as contiguous arrays.
struct SelectionInputs {
  Tensor embeddings, labels;
  std::optional<Tensor> ref_embeddings, ref_labels, ids, ref_ids;
  ScalarType type;

  SelectionInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                  const std::optional<Tensor>& ref_y, const std::optional<Tensor>& x_ids,
                  const std::optional<Tensor>& ref_x_ids);

  template <class T>
  LabeledMatrix<T> anchors() const {
    return {data<T>(embeddings), data<int64_t>(labels), embeddings.size(0), data<int64_t>(ids)};
  }
  template <class T>
  LabeledMatrix<T> refs() const {
    return {data<T>(*ref_embeddings), data<int64_t>(*ref_labels), ref_embeddings->size(0), data<int64_t>(ref_ids)};
  }
};

// The outputs of a selection, and whether all inputs are finite.
struct SelectionTensors {
  Tensor positive_index, negative_index, positive_similarity, negative_similarity;
  bool finite;
};
// `random`: see csrc/library.cpp.
SelectionTensors select_triplets_tensors(const SelectionRule& rule, const SelectionInputs& inputs,
                                         const std::optional<Tensor>& random);

}  // namespace hardmine::cpu
