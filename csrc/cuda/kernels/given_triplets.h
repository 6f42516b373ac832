// Losses of triplets that the user gives as rows (a, p, n) of the embeddings, torch-free.
//
// The host does not wait for the device to check the triplets. An invalid triplet (is_triplet in core/views.h) is not
// read, and makes the loss and all gradients NaN, as a non-finite row does.
#pragma once

#include "core/losses/global_loss.h"
#include "core/losses/loss_reduction.h"
#include "cuda/kernels/pair_gradient.h"

namespace hardmine::cuda {

// One term per triplet. The other loss is GlobalRule, a function of the distances of all triplets.
struct IndexedLoss {
  TermRule term;
  Reduction reduction;
};

// The loss, and per triplet the measures of its pairs (a, p) and (a, n); for GlobalRule, their distances.
template <class acc_t>
struct TripletLossOut {
  acc_t* loss;      // [1], or [count] without reduction
  acc_t* positive;  // [count]
  acc_t* negative;  // [count]
};

// The outputs of the forward pass, and the gradients that arrive at them.
template <class acc_t>
struct TripletLossGradient {
  const acc_t* positive;       // [count]
  const acc_t* negative;       // [count]
  const acc_t* grad_loss;      // [1], or [count] without reduction
  const acc_t* grad_positive;  // [count]; null: none
  const acc_t* grad_negative;  // [count]; null: none
};

// Sums are in double, in an order that depends only on the number of triplets. O(rows + triplets) memory.
template <class Loss, class Scalar, class acc_t>
void loss_of_triplets(const PairMeasure& measure, const Loss& loss, const MatrixPair<Scalar>& rows,
                      const TripletList& triplets, const TripletLossOut<acc_t>& out, Workspace& workspace,
                      const Stream& stream);

template <class Loss, class Scalar, class acc_t>
void loss_of_triplets_gradient(const PairMeasure& measure, const Loss& loss, const MatrixPair<Scalar>& rows,
                               const TripletList& triplets, const TripletLossGradient<acc_t>& gradient, Scalar* grad_x,
                               Workspace& workspace, const Stream& stream);

}  // namespace hardmine::cuda
