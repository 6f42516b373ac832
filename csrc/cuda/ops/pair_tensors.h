// Tensors of pairs and of their gradients, as arrays for pair_gradient.
#pragma once

#include "cuda/kernels/pair_gradient.h"
#include "cuda/ops/torch_bridge.h"

namespace hardmine::cuda {

// The indices of a selection, and per pair its similarity or the gradient of that.
struct SelectedTensors {
  Tensor positive_index, negative_index, positive, negative;

  SelectedTensors(const Tensor& p_index, const Tensor& n_index, const Tensor& p, const Tensor& n, const Tensor& like) {
    const ScalarType type = compute_type(like);
    positive_index = checked_vector("positive_index", p_index, like, ScalarType::Long);
    negative_index = checked_vector("negative_index", n_index, like, ScalarType::Long);
    positive = checked_vector("numbers of positives", p, like, type);
    negative = checked_vector("numbers of negatives", n, like, type);
  }

  template <class acc_t>
  SelectedPairs<acc_t> pairs() const {
    return {data<int64_t>(positive_index), data<int64_t>(negative_index), data<acc_t>(positive), data<acc_t>(negative),
            positive_index.size(0)};
  }
};

// Calls body(Type<acc_t>{}, rows, out) with the arrays for pair_gradient.
template <class Body>
void with_gradient(const GradientTensors& tensors, const Body& body) {
  with_scalar(tensors.embeddings.scalar_type(), [&](auto scalar) {
    using Scalar = typename decltype(scalar)::type;
    using acc_t = std::conditional_t<std::is_same_v<Scalar, double>, double, float>;
    const auto target = [](const Tensor& grad) { return grad.dim() == 2 ? mutable_data<Scalar>(grad) : nullptr; };
    const PairedRows<Scalar> rows{data<Scalar>(tensors.embeddings), tensors.count(),
                                  tensors.has_refs ? data<Scalar>(tensors.ref_embeddings) : nullptr,
                                  tensors.has_refs ? tensors.ref_embeddings.size(0) : 0, tensors.embeddings.size(1)};
    body(Type<acc_t>{}, rows, GradientOut<Scalar>{target(tensors.grad_x), target(tensors.grad_refs)});
  });
}

}  // namespace hardmine::cuda
