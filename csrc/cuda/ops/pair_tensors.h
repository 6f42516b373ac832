// What several ops share: the dispatch of labeled inputs, and selections as tensors.
#pragma once

#include "cuda/kernels/pair_gradient.h"
#include "cuda/kernels/select_triplets.h"
#include "cuda/ops/torch_bridge.h"

namespace hardmine::cuda {

// Calls body<MmaPolicy, Scalar>(anchors, refs); refs is a pointer, null without refs.
template <class Body>
void with_labeled_inputs(const LabeledInputs& inputs, Similarity similarity, bool allow_tf32, const Body& body) {
  const ScalarType dtype = inputs.embeddings.scalar_type();
  const bool squared_differences = is_distance(measure_of(similarity));
  with_mma_policy(dtype, squared_differences, allow_tf32, [&]<class MmaPolicy, class Scalar>() {
    const LabeledMatrix<Scalar> refs = inputs.refs<Scalar>();
    body.template operator()<MmaPolicy, Scalar>(inputs.anchors<Scalar>(), inputs.ref_embeddings ? &refs : nullptr);
  });
}

template <class Scalar>
GradientOut<Scalar> gradient_out(const GradientTensors& gradients) {
  return {.x = gradients.x_data<Scalar>(), .refs = gradients.refs_data<Scalar>()};
}

// Selects, and computes the loss if there is a rule. `random`: see csrc/library.cpp.
SelectionTensors select_triplets_tensors(const SelectionRule& rule, const LabeledInputs& inputs,
                                         const std::optional<Tensor>& random, OpContext& context,
                                         const LossRule* loss_rule = nullptr, const Tensor* loss = nullptr,
                                         const SelectionBlock& block = {});

// Calls body<acc_t>(rows, out) with the arrays for pair_gradient.
template <class Body>
void with_gradient(const BackwardInputs& inputs, const Body& body) {
  with_scalar(inputs.embeddings.scalar_type(), [&]<class Scalar>() {
    body.template operator()<AccumulatorOf<Scalar>>(inputs.matrices<Scalar>(), gradient_out<Scalar>(inputs.gradients));
  });
}

}  // namespace hardmine::cuda
