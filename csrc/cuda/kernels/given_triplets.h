// Losses of triplets that the user gives as rows (a, p, n) of the embeddings, torch-free.
//
// The host does not wait for the device to look at the triplets. One that is none (is_triplet in core/views.h) is not
// read, and makes the loss and all gradients NaN, as a row that is not finite does.
#pragma once

#include "core/losses/global_loss.h"
#include "core/losses/loss_reduction.h"
#include "cuda/kernels/pair_gradient.h"

namespace hardmine::cuda {

// The losses: a term of every triplet, or GlobalRule, which is of the distances of all.
struct IndexedLoss {
  TermRule term;
  Reduction reduction;
};

// What the loss is of, one number a triplet: the measures of the pairs (a, p) and (a, n); of GlobalRule, distances.
template <class acc_t>
struct TripletLossOut {
  acc_t* loss;      // [1], or [count] without reduction
  acc_t* positive;  // [count]
  acc_t* negative;  // [count]
};

// The outputs, and the gradients that arrive there.
template <class acc_t>
struct TripletLossGradient {
  const acc_t* positive;       // [count]
  const acc_t* negative;       // [count]
  const acc_t* grad_loss;      // [1], or [count] without reduction
  const acc_t* grad_positive;  // [count], null: none
  const acc_t* grad_negative;
};

// Sums are in double, in an order that depends on the number of triplets only. O(rows + triplets) memory.
template <class Loss, class Scalar, class acc_t>
void loss_of_triplets(const PairMeasure& measure, const Loss& loss, const PairedRows<Scalar>& rows,
                      const TripletList& triplets, const TripletLossOut<acc_t>& out, Workspace& workspace,
                      const Stream& stream);

template <class Loss, class Scalar, class acc_t>
void loss_of_triplets_gradient(const PairMeasure& measure, const Loss& loss, const PairedRows<Scalar>& rows,
                               const TripletList& triplets, const TripletLossGradient<acc_t>& gradient, Scalar* grad_x,
                               Workspace& workspace, const Stream& stream);

}  // namespace hardmine::cuda
