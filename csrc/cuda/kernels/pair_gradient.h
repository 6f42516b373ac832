// The gradients that arrive at the measures of listed pairs, passed on to the pairs' rows, torch-free.
#pragma once

#include <utility>

#include "core/losses/loss_reduction.h"
#include "core/similarity.h"
#include "core/views.h"
#include "cuda/device/launch.h"

namespace hardmine::cuda {

// Entries of one left row and `partners` right rows, and the gradient that arrives at each pair's measure.
template <class acc_t>
struct PairList {
  const int64_t* left;    // [count]; null: entry e has left row e
  const int64_t* right;   // [count, partners]; an invalid row: no pair
  const acc_t* gradient;  // [count, partners]
  int64_t count;
  int64_t partners;
  const int32_t* is_valid = nullptr;  // [1]; 0: the list is invalid, and makes all gradients NaN
};

// The selected pairs of a triplet loss, and the gradients that arrive at the loss and at the similarities.
template <class acc_t>
struct LossGradient {
  TermRule term;
  Reduction reduction;
  SelectedPairs<acc_t> pairs;
  const acc_t* grad_loss;      // [1], or [count] without reduction; null: none
  const acc_t* grad_positive;  // [count]; null: none
  const acc_t* grad_negative;  // [count]; null: none
};

// Gradients in the type of the rows. Null: not computed.
template <class Scalar>
struct GradientOut {
  Scalar* x;     // [count, depth]
  Scalar* refs;  // [ref_count, depth]
};

// Every row gathers its contributions in a fixed order: the pairs with it as the left row, in the order of the list,
// then those with it as the right row. O(rows + pairs) memory. nan_if_not_finite: all gradients are NaN if some row, or
// its norm, is not finite.
template <class Scalar, class acc_t>
void pair_gradient(const PairMeasure& measure, const MatrixPair<Scalar>& rows, const PairList<acc_t>& pairs,
                   bool nan_if_not_finite, const GradientOut<Scalar>& out, Workspace& workspace, const Stream& stream);

// The same for a triplet loss. With grad_loss the gradients are NaN if some row is not finite, as the loss is.
template <class Scalar, class acc_t>
void triplet_loss_gradient(const PairMeasure& measure, const MatrixPair<Scalar>& rows, const LossGradient<acc_t>& loss,
                           bool nan_if_not_finite, const GradientOut<Scalar>& out, Workspace& workspace,
                           const Stream& stream);

}  // namespace hardmine::cuda
