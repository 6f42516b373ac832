// Losses of triplets that the user gives as rows (a, p, n) of the embeddings, torch-free.
//
// The host does not wait for the device to check the triplets. An invalid triplet (is_triplet in core/views.h) is not
// read, and makes the loss and all gradients NaN, as a non-finite row does.
#pragma once

#include "core/losses/given_triplets.h"
#include "core/views.h"
#include "cuda/kernels/pair_gradient.h"

namespace hardmine::cuda {

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
