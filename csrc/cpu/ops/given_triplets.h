// Shared by the ops on given triplets: from tensors to loss_of_triplets, and back.
#pragma once

#include "cpu/engine/given_triplets.h"
#include "cpu/ops/torch_bridge.h"
#include "triplet_tensors.h"

namespace hardmine::cpu {

inline TripletInputs checked_triplets(const Tensor& embeddings, const Tensor& triplets, const NeededGradients& needed) {
  TripletInputs inputs(embeddings, triplets, needed);
  const std::string error = first_invalid_triplet(inputs.list(), inputs.rows.count());
  check(error.empty(), error);
  return inputs;
}

// Returns the loss, [] or [T] without reduction, and the kept numbers of all pairs, each [T].
template <class Loss>
std::tuple<Tensor, Tensor, Tensor> triplet_loss_tensors(const PairMeasure& measure, const Loss& loss,
                                                        const Tensor& embeddings, const Tensor& triplets) {
  const TripletInputs in = checked_triplets(embeddings, triplets, {.rows = false, .columns = false});
  const TripletLossTensors out(in, is_reduced(loss));
  dispatch(in.rows.type, [&]<class T>() {
    const MatrixPair<T> rows = in.rows.matrices<T>();
    loss_of_triplets<Loss, T>(measure, loss, rows.x, rows.count, rows.depth, in.list(), TorchThreadPool(),
                              out.out<T>());
  });
  return {out.loss, out.positive, out.negative};
}

// Returns the gradient of the embeddings, in their dtype.
template <class Loss>
Tensor triplet_gradient_tensor(const PairMeasure& measure, const Loss& loss, const Tensor& embeddings,
                               const Tensor& triplets, const TripletLossGradients& given) {
  const TripletInputs in = checked_triplets(embeddings, triplets, {.rows = true, .columns = false});
  const TripletSavedTensors saved(in, given, is_reduced(loss));
  dispatch(in.rows.type, [&]<class T>() {
    const MatrixPair<T> rows = in.rows.matrices<T>();
    loss_of_triplets_gradient<Loss, T>(measure, loss, rows.x, rows.count, rows.depth, in.list(), saved.saved<T>(),
                                       TorchThreadPool(), in.rows.gradients.x_data<T>());
  });
  return as_array(in.rows.gradients.x, embeddings.scalar_type());
}

}  // namespace hardmine::cpu
