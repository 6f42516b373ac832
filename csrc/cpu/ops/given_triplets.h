// Shared by the ops on given triplets: from tensors to loss_of_triplets, and back.
#pragma once

#include "cpu/engine/given_triplets.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

// Checked triplets of rows of the embeddings.
struct TripletInputs {
  Tensor embeddings, triplets;  // contiguous, of the compute type and int64
  ScalarType type;
  int64_t rows, depth, count;

  TripletInputs(const Tensor& x, const Tensor& t) : type(compute_type(x)) {
    check_matrix("embeddings", x, -1);
    if (!t.is_cpu() || t.scalar_type() != ScalarType::Long || t.dim() != 2 || t.size(1) != 3)
      fail("triplets must be an int64 CPU tensor [T, 3], got " + shape_of(t));
    embeddings = as_array(x, type);
    triplets = contiguous_array(t);
    rows = x.size(0);
    depth = x.size(1);
    count = t.size(0);
    const std::string error = first_invalid_triplet(list(), rows);
    check(error.empty(), error);
  }
  TripletList list() const { return {data<int64_t>(triplets), count}; }
};

// Returns the loss, [] or [T] without reduction, and the kept numbers of all pairs, each [T].
template <class Loss>
std::tuple<Tensor, Tensor, Tensor> triplet_loss_tensors(const PairMeasure& measure, const Loss& loss,
                                                        const Tensor& embeddings, const Tensor& triplets) {
  const TripletInputs in(embeddings, triplets);
  const Tensor positive = new_array(in.embeddings, {in.count}, in.type),
               negative = new_array(in.embeddings, {in.count}, in.type);
  const Tensor value =
      is_reduced(loss) ? new_array(in.embeddings, {}, in.type) : new_array(in.embeddings, {in.count}, in.type);
  dispatch(in.type, [&]<class T>() {
    loss_of_triplets<Loss, T>(
        measure, loss, data<T>(in.embeddings), in.rows, in.depth, in.list(), TorchThreadPool(),
        {.loss = mutable_data<T>(value), .positive = mutable_data<T>(positive), .negative = mutable_data<T>(negative)});
  });
  return {value, positive, negative};
}

// The outputs of such an op and the gradients that arrive at them, with their names in the schema.
struct TripletLossGradients {
  const Tensor& grad_loss;
  const std::optional<Tensor>&grad_positive, &grad_negative;
  const char *positive_name, *negative_name;
  const Tensor &positive, &negative;
};

// Returns the gradient of the embeddings, in their dtype.
template <class Loss>
Tensor triplet_gradient_tensor(const PairMeasure& measure, const Loss& loss, const Tensor& embeddings,
                               const Tensor& triplets, const TripletLossGradients& given) {
  const TripletInputs in(embeddings, triplets);
  const auto checked = [&](const char* name, const Tensor& t) {
    check_vector(name, t, in.count, in.type);
    return contiguous_array(t);
  };
  const Tensor positive = checked(given.positive_name, given.positive),
               negative = checked(given.negative_name, given.negative);
  check_loss_gradient(given.grad_loss, in.embeddings, in.type, is_reduced(loss) ? 1 : in.count);
  const Tensor grad_loss = contiguous_array(given.grad_loss);
  const Tensor grad_positive = given.grad_positive ? checked("grad_positive", *given.grad_positive) : grad_loss,
               grad_negative = given.grad_negative ? checked("grad_negative", *given.grad_negative) : grad_loss;
  const Tensor grad = new_array(in.embeddings, {in.rows, in.depth}, in.type);
  dispatch(in.type, [&]<class T>() {
    loss_of_triplets_gradient<Loss, T>(measure, loss, data<T>(in.embeddings), in.rows, in.depth, in.list(),
                                       {.positive = data<T>(positive),
                                        .negative = data<T>(negative),
                                        .grad_loss = data<T>(grad_loss),
                                        .grad_positive = given.grad_positive ? data<T>(grad_positive) : nullptr,
                                        .grad_negative = given.grad_negative ? data<T>(grad_negative) : nullptr},
                                       TorchThreadPool(), mutable_data<T>(grad));
  });
  return as_array(grad, embeddings.scalar_type());
}

}  // namespace hardmine::cpu
