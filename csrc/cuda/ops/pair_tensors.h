// The tensors that several ops share, as arrays: labeled inputs, selections, pairs and gradients.
#pragma once

#include "cuda/kernels/pair_gradient.h"
#include "cuda/kernels/select_triplets.h"
#include "cuda/ops/torch_bridge.h"

namespace hardmine::cuda {

// Rows and labels of an op's inputs, as arrays that live as long as this object.
struct LabeledInputs {
  Tensor embeddings, labels;
  std::optional<Tensor> ref_embeddings, ref_labels, ids, ref_ids;
  ScalarType type;  // of similarities and losses
  int64_t count, depth;

  LabeledInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                const std::optional<Tensor>& ref_y, const std::optional<Tensor>& x_ids,
                const std::optional<Tensor>& ref_x_ids);

  template <class Scalar>
  LabeledMatrix<Scalar> anchors() const {
    return {data<Scalar>(embeddings), data<int64_t>(labels), count, data<int64_t>(ids)};
  }
  template <class Scalar>
  LabeledMatrix<Scalar> refs() const {
    return {data<Scalar>(*ref_embeddings), data<int64_t>(*ref_labels), ref_embeddings->size(0), data<int64_t>(ref_ids)};
  }
};

// Calls body<MmaPolicy, Scalar>(anchors, refs); refs is a pointer, null without refs.
template <class Body>
void with_labeled_inputs(const LabeledInputs& inputs, Similarity similarity, bool allow_tf32, const Body& body) {
  const ScalarType dtype = inputs.embeddings.scalar_type();
  const bool squared_differences = is_distance(measure_of(similarity));
  with_mma_policy(dtype, squared_differences, allow_tf32, [&]<class MmaPolicy, class Scalar>() {
    LabeledMatrix<Scalar> refs{};
    if (inputs.ref_embeddings) refs = inputs.refs<Scalar>();
    body.template operator()<MmaPolicy, Scalar>(inputs.anchors<Scalar>(), inputs.ref_embeddings ? &refs : nullptr);
  });
}

// The outputs of a selection, and the loss if there is a rule.
struct SelectionTensors {
  Tensor positive_index, negative_index, positive_similarity, negative_similarity;
  Tensor loss;
};
// `random`: see csrc/library.cpp.
SelectionTensors select_triplets_tensors(const SelectionRule& rule, const LossRule* loss, const LabeledInputs& inputs,
                                         const std::optional<Tensor>& random, OpContext& context);

// The checked inputs of a backward op, and its output gradients in the same type. A gradient that is not needed is
// empty.
struct GradientTensors {
  Tensor embeddings, ref_embeddings;
  bool has_refs;
  Tensor grad_x, grad_refs;

  GradientTensors(const Tensor& x, const std::optional<Tensor>& refs, const NeededGradients& needed);
  int64_t count() const { return embeddings.size(0); }
};

// The indices of a selection, and per pair its similarity or the gradient of that.
struct SelectedTensors {
  Tensor positive_index, negative_index, positive, negative;

  // The names are those of the op's arguments `p` and `n`.
  SelectedTensors(const Tensor& p_index, const Tensor& n_index, const char* p_name, const Tensor& p, const char* n_name,
                  const Tensor& n, const Tensor& like) {
    const ScalarType type = compute_type(like);
    positive_index = checked_vector("positive_index", p_index, like, ScalarType::Long);
    negative_index = checked_vector("negative_index", n_index, like, ScalarType::Long);
    positive = checked_vector(p_name, p, like, type);
    negative = checked_vector(n_name, n, like, type);
  }

  template <class acc_t>
  SelectedPairs<acc_t> pairs() const {
    return {
        .positive_index = data<int64_t>(positive_index),
        .negative_index = data<int64_t>(negative_index),
        .positive_similarity = data<acc_t>(positive),
        .negative_similarity = data<acc_t>(negative),
        .count = positive_index.size(0),
    };
  }
};

// Calls body<acc_t>(rows, out) with the arrays for pair_gradient.
template <class Body>
void with_gradient(const GradientTensors& tensors, const Body& body) {
  with_scalar(tensors.embeddings.scalar_type(), [&]<class Scalar>() {
    using acc_t = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;
    const auto target = [](const Tensor& grad) { return grad.dim() == 2 ? mutable_data<Scalar>(grad) : nullptr; };
    const MatrixPair<Scalar> rows{
        .x = data<Scalar>(tensors.embeddings),
        .count = tensors.count(),
        .refs = tensors.has_refs ? data<Scalar>(tensors.ref_embeddings) : nullptr,
        .ref_count = tensors.has_refs ? tensors.ref_embeddings.size(0) : 0,
        .depth = tensors.embeddings.size(1),
    };
    const GradientOut<Scalar> out{.x = target(tensors.grad_x), .refs = target(tensors.grad_refs)};
    body.template operator()<acc_t>(rows, out);
  });
}

}  // namespace hardmine::cuda
