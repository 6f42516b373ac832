// Shared by the ops on given triplets: from tensors to loss_of_triplets, and back.
#pragma once

#include "cuda/kernels/given_triplets.h"
#include "cuda/ops/pair_tensors.h"
#include "triplet_tensors.h"

namespace hardmine::cuda {

// Returns the loss, [] or [T] without reduction, and the kept numbers of all pairs, each [T].
template <class Loss>
std::tuple<Tensor, Tensor, Tensor> triplet_loss_tensors(const PairMeasure& measure, const Loss& loss,
                                                        const Tensor& embeddings, const Tensor& triplets) {
  const TripletInputs in(embeddings, triplets, {.rows = false, .columns = false});
  const TripletLossTensors out(in, is_reduced(loss));
  OpContext context(in.rows.embeddings);
  with_scalar(in.rows.embeddings.scalar_type(), [&]<class Scalar>() {
    loss_of_triplets(measure, loss, in.rows.matrices<Scalar>(), in.list(), out.out<AccumulatorOf<Scalar>>(), context,
                     context.stream());
  });
  return {out.loss, out.positive, out.negative};
}

// Returns the gradient of the embeddings, in their dtype.
template <class Loss>
Tensor triplet_gradient_tensor(const PairMeasure& measure, const Loss& loss, const Tensor& embeddings,
                               const Tensor& triplets, const TripletLossGradients& given) {
  const TripletInputs in(embeddings, triplets, {.rows = true, .columns = false});
  const TripletSavedTensors saved(in, given, is_reduced(loss));
  OpContext context(in.rows.embeddings);
  with_scalar(in.rows.embeddings.scalar_type(), [&]<class Scalar>() {
    loss_of_triplets_gradient(measure, loss, in.rows.matrices<Scalar>(), in.list(),
                              saved.saved<AccumulatorOf<Scalar>>(), in.rows.gradients.x_data<Scalar>(), context,
                              context.stream());
  });
  return in.rows.gradients.x;
}

}  // namespace hardmine::cuda
