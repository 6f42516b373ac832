// The tensors of losses of given triplets as checked arrays, the same on every device.
#pragma once

#include <optional>
#include <tuple>

#include "core/losses/given_triplets.h"
#include "op_tensors.h"

namespace hardmine {

// Triplets of rows of the embeddings, whose values are not checked: on CUDA the host would wait for the device.
struct TripletInputs {
  BackwardInputs rows;
  Tensor triplets;  // [count, 3]
  int64_t count;

  TripletInputs(const Tensor& x, const Tensor& t, const NeededGradients& needed) : rows(x, std::nullopt, needed) {
    if (!is_here(t) || t.scalar_type() != ScalarType::Long || t.dim() != 2 || t.size(1) != 3)
      fail(std::string("triplets must be an int64 ") + kHere + " tensor [T, 3], got " + shape_of(t));
    check_same_device("triplets", t, x);
    triplets = contiguous_array(t);
    count = t.size(0);
  }

  TripletList list() const { return {data<int64_t>(triplets), count}; }
  Tensor new_vector() const { return new_array(rows.embeddings, {count}, rows.type); }
};

// The outputs of a loss of given triplets: the loss, [] or [T], and the kept numbers of all pairs, each [T].
struct TripletLossTensors {
  Tensor loss, positive, negative;

  TripletLossTensors(const TripletInputs& inputs, bool is_reduced)
      : loss(is_reduced ? new_array(inputs.rows.embeddings, {}, inputs.rows.type) : inputs.new_vector()),
        positive(inputs.new_vector()),
        negative(inputs.new_vector()) {}

  template <class T>
  TripletLossOut<T> out() const {
    return {
        .loss = mutable_data<T>(loss), .positive = mutable_data<T>(positive), .negative = mutable_data<T>(negative)};
  }
};

// These outputs as the arguments of a backward op, with their names in the schema, and the gradients that arrive.
struct TripletLossGradients {
  const Tensor& grad_loss;
  const std::optional<Tensor>&grad_positive, &grad_negative;
  const char *positive_name, *negative_name;
  const Tensor &positive, &negative;
};

// The same, checked.
struct TripletSavedTensors {
  Tensor grad_loss, positive, negative;
  std::optional<Tensor> grad_positive, grad_negative;

  TripletSavedTensors(const TripletInputs& inputs, const TripletLossGradients& given, bool is_reduced)
      : grad_loss(
            checked_loss_gradient(given.grad_loss, inputs.rows.embeddings, inputs.rows.type, is_reduced, inputs.count)),
        positive(checked_vector(given.positive_name, given.positive, inputs.triplets, inputs.rows.type)),
        negative(checked_vector(given.negative_name, given.negative, inputs.triplets, inputs.rows.type)),
        grad_positive(checked_vector("grad_positive", given.grad_positive, inputs.triplets, inputs.rows.type)),
        grad_negative(checked_vector("grad_negative", given.grad_negative, inputs.triplets, inputs.rows.type)) {}

  template <class T>
  TripletLossGradient<T> saved() const {
    return {.positive = data<T>(positive),
            .negative = data<T>(negative),
            .grad_loss = data<T>(grad_loss),
            .grad_positive = data<T>(grad_positive),
            .grad_negative = data<T>(grad_negative)};
  }
};

}  // namespace hardmine
