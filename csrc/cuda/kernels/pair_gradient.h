// Gradients that arrive at measures of listed pairs, passed on to the rows of the pairs, torch-free.
#pragma once

#include <utility>

#include "core/losses/loss_reduction.h"
#include "core/similarity.h"
#include "core/views.h"
#include "cuda/device/launch.h"
#include "cuda/device/workspace.h"

namespace hardmine::cuda {

// Entries of one first row and some partners of it, and the gradient that arrives at the measure of each such pair.
template <class acc_t>
struct PairList {
  const int64_t* left;    // [count]; null: entry e is of row e
  const int64_t* right;   // [count, partners]; a number that is no row: no pair
  const acc_t* gradient;  // [count, partners]
  int64_t count;
  int64_t partners;
  const int32_t* is_valid =
      nullptr;  // [1], 0: the list is not to be trusted, and poisons as a row that is not finite does
};

// The selected pairs of a triplet loss, and the gradients that arrive at the loss and at the similarities.
template <class acc_t>
struct LossGradient {
  TermRule term;
  Reduction reduction;
  SelectedPairs<acc_t> pairs;
  const acc_t* grad_loss;      // [1], or [count] without reduction; null: none arrives there
  const acc_t* grad_positive;  // [count], null: none
  const acc_t* grad_negative;
};

// Gradients, in the type of the rows; null ones are not computed.
template <class Scalar>
struct GradientOut {
  Scalar* x;     // [count, depth]
  Scalar* refs;  // [ref_count, depth]
};

// Every output row gathers its contributions in a fixed order: the pairs that it is first of, in the order of the list,
// then those that it is second of, likewise. O(rows + pairs) memory. nan_if_not_finite: all gradients are NaN where
// some row, or its norm, is not finite.
template <class Scalar, class acc_t>
void pair_gradient(const PairMeasure& measure, const PairedRows<Scalar>& rows, const PairList<acc_t>& pairs,
                   bool nan_if_not_finite, const GradientOut<Scalar>& out, Workspace& workspace, const Stream& stream);

// The same of a triplet loss: NaN where the loss is, for rows that are not finite.
template <class Scalar, class acc_t>
void triplet_loss_gradient(const PairMeasure& measure, const PairedRows<Scalar>& rows, const LossGradient<acc_t>& loss,
                           bool nan_if_not_finite, const GradientOut<Scalar>& out, Workspace& workspace,
                           const Stream& stream);

}  // namespace hardmine::cuda
