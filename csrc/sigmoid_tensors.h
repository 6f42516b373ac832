// The tensors of the sigmoid loss as checked arrays, the same on every device.
#pragma once

#include <optional>
#include <string>

#include "core/losses/sigmoid_loss.h"
#include "op_tensors.h"

namespace hardmine {

// Scale and bias: float64 [2], on the device of the queries, so that nobody waits for their values.
inline Tensor checked_logit(const Tensor& logit, const Tensor& query) {
  if (!is_here(logit) || logit.scalar_type() != ScalarType::Double || logit.dim() != 1 || logit.size(0) != 2)
    fail(std::string("logit must be a ") + kHere + " tensor [2] of float64, got " + shape_of(logit));
  check_same_device("logit", logit, query);
  return contiguous_array(logit);
}

// The value [queries], and its derivatives by scale and bias [2, queries].
struct SigmoidTensors {
  Tensor value, slopes;

  explicit SigmoidTensors(const LabeledInputs& inputs)
      : value(inputs.new_vector(inputs.type)), slopes(new_array(inputs.embeddings, {2, inputs.count}, inputs.type)) {}

  template <class T>
  SigmoidOut<T> out() const {
    T* first = mutable_data<T>(slopes);
    return {.value = mutable_data<T>(value), .by_scale = first, .by_bias = first + slopes.size(1)};
  }
};

}  // namespace hardmine
