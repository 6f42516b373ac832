// Losses whose forward pass computes the gradient, and their backward pass.
#pragma once

#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

// A number, the loss of labeled rows, and its gradients. For the compute type, `compute(refs, loss, grad_x, grad_refs)`
// writes them; pointers are null without refs and for gradients that are not needed. It returns false if an input is
// not finite: everything is NaN then, because divergence is never hidden.
template <class Compute>
std::tuple<Tensor, Tensor, Tensor> loss_with_gradients(const LabeledInputs& inputs, const NeededGradients& needed,
                                                       const Compute& compute) {
  const Tensor loss = new_array(inputs.embeddings, {}, inputs.type);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings, needed);
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    if (compute(inputs.ref_embeddings ? &refs : nullptr, mutable_data<T>(loss), gradients.x_data<T>(),
                gradients.refs_data<T>()))
      return;
    *mutable_data<T>(loss) = std::numeric_limits<T>::quiet_NaN();
    gradients.fill_nan<T>();
  });
  return {loss, gradients.x, gradients.refs};
}

// A gradient [rows, depth] that the forward pass left, times the gradient of the loss; empty if not needed.
inline Tensor scaled_gradient(const Tensor& grad_loss, const char* name, const Tensor& given, bool is_needed) {
  const ScalarType type = given.scalar_type();
  if (!is_needed) return new_array(given, {0}, type);
  check_scaled_gradient(grad_loss, name, given);
  const Tensor grad = contiguous_array(given);
  const Tensor out = new_array(grad, {grad.size(0), grad.size(1)}, type);
  dispatch(type, [&]<class T>() {
    const T factor = *data<T>(grad_loss);
    const T* from = data<T>(grad);
    T* to = mutable_data<T>(out);
    const int64_t size = grad.numel();
    for (int64_t i = 0; i < size; ++i) to[i] = factor * from[i];
  });
  return out;
}

// A gradient of float64 numbers, such as a temperature's, that the forward pass left, times the gradient of the loss;
// empty if not needed.
inline Tensor scaled_numbers(const Tensor& grad_loss, const char* name, const Tensor& given, bool is_needed) {
  if (!is_needed) return new_array(given, {0}, ScalarType::Double);
  if (given.scalar_type() != ScalarType::Double || given.dim() > 1 || grad_loss.numel() != 1)
    fail(std::string(name) + " must be numbers of float64, got " + shape_of(given));
  const Tensor grad = contiguous_array(given);
  const Tensor out =
      grad.dim() ? new_array(grad, {grad.size(0)}, ScalarType::Double) : new_array(grad, {}, ScalarType::Double);
  const double factor =
      dispatch(grad_loss.scalar_type(), [&]<class T>() { return static_cast<double>(*data<T>(grad_loss)); });
  for (int64_t i = 0; i < grad.numel(); ++i) mutable_data<double>(out)[i] = factor * data<double>(grad)[i];
  return out;
}

// The backward op of a loss on labeled rows; `Rule` tells the ops apart. Embeddings and refs are arguments only so that
// autograd notices a second derivative.
template <class Rule>
std::tuple<Tensor, Tensor> scaled_gradients(Tensor grad_loss, Tensor grad_embeddings, Tensor grad_ref_embeddings,
                                            Tensor, std::optional<Tensor>, bool need_embeddings,
                                            bool need_ref_embeddings) {
  return {scaled_gradient(grad_loss, "grad_embeddings", grad_embeddings, need_embeddings),
          scaled_gradient(grad_loss, "grad_ref_embeddings", grad_ref_embeddings, need_ref_embeddings)};
}

}  // namespace hardmine::cpu
