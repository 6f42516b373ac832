// The tensors of the ops on given triplets, as arrays for loss_of_triplets.
#pragma once

#include "cuda/kernels/given_triplets.h"
#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {

// The triplets' values are not checked here, since the host would have to wait for the device.
struct TripletInputs {
  GradientTensors rows;
  Tensor triplets;  // contiguous
  ScalarType type;  // of measures and losses
  int64_t count;

  TripletInputs(const Tensor& x, const Tensor& t, const NeededGradients& needed)
      : rows(x, std::nullopt, needed), type(compute_type(x)) {
    if (!is_here(t) || t.scalar_type() != ScalarType::Long || t.dim() != 2 || t.size(1) != 3)
      fail(std::string("triplets must be an int64 ") + kHere + " tensor [T, 3], got " + shape_of(t));
    check_same_device("triplets", t, x);
    triplets = contiguous_array(t);
    count = t.size(0);
  }
  TripletList list() const { return {data<int64_t>(triplets), count}; }
  Tensor new_vector() const { return new_array(rows.embeddings, {count}, type); }
};

// Returns the loss, [] or [T], and the two measures that it is a function of, each [T].
template <class Loss>
std::tuple<Tensor, Tensor, Tensor> triplet_loss_tensors(const PairMeasure& measure, const Loss& loss,
                                                        const Tensor& embeddings, const Tensor& triplets,
                                                        bool unreduced) {
  const TripletInputs in(embeddings, triplets, {.rows = false, .columns = false});
  const Tensor positive = in.new_vector(), negative = in.new_vector();
  const Tensor value = unreduced ? in.new_vector() : new_array(in.rows.embeddings, {}, in.type);
  OpContext context(in.rows.embeddings);
  with_gradient(in.rows, [&]<class acc_t>(const auto& rows, const auto&) {
    const TripletLossOut<acc_t> out{
        .loss = mutable_data<acc_t>(value),
        .positive = mutable_data<acc_t>(positive),
        .negative = mutable_data<acc_t>(negative),
    };
    loss_of_triplets(measure, loss, rows, in.list(), out, context, context.stream());
  });
  return {value, positive, negative};
}

// The gradients that arrive at the op's outputs, and the saved measures, with their names in the schema.
struct TripletLossGradients {
  const Tensor& grad_loss;
  const std::optional<Tensor>&grad_positive, &grad_negative;
  const char *positive_name, *negative_name;
  const Tensor &positive, &negative;
};

// Returns the gradient of the embeddings.
template <class Loss>
Tensor triplet_gradient_tensor(const PairMeasure& measure, const Loss& loss, const Tensor& embeddings,
                               const Tensor& triplets, const TripletLossGradients& given, bool unreduced) {
  const TripletInputs in(embeddings, triplets, {.rows = true, .columns = false});
  const auto checked = [&](const char* name, const Tensor& t) { return checked_vector(name, t, triplets, in.type); };
  const Tensor positive = checked(given.positive_name, given.positive),
               negative = checked(given.negative_name, given.negative);
  check_loss_gradient(given.grad_loss, in.rows.embeddings, in.type, unreduced ? in.count : 1);
  const Tensor grad_loss = contiguous_array(given.grad_loss);
  const Tensor grad_positive = given.grad_positive ? checked("grad_positive", *given.grad_positive) : grad_loss,
               grad_negative = given.grad_negative ? checked("grad_negative", *given.grad_negative) : grad_loss;
  OpContext context(in.rows.embeddings);
  with_gradient(in.rows, [&]<class acc_t>(const auto& rows, const auto& out) {
    const TripletLossGradient<acc_t> gradient{
        .positive = data<acc_t>(positive),
        .negative = data<acc_t>(negative),
        .grad_loss = data<acc_t>(grad_loss),
        .grad_positive = given.grad_positive ? data<acc_t>(grad_positive) : nullptr,
        .grad_negative = given.grad_negative ? data<acc_t>(grad_negative) : nullptr,
    };
    loss_of_triplets_gradient(measure, loss, rows, in.list(), gradient, out.x, context, context.stream());
  });
  return in.rows.grad_x;
}

}  // namespace hardmine::cuda
