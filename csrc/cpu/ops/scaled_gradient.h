// The backward pass of losses whose forward pass computes the gradient.
#pragma once

#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

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
