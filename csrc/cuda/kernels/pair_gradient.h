// The gradients that arrive at the measures of listed pairs, passed on to the pairs' rows, torch-free.
#pragma once

#include <utility>

#include "core/losses/loss_reduction.h"
#include "core/similarity.h"
#include "core/views.h"
#include "cuda/device/launch.h"

namespace hardmine::cuda {

// The selected pairs of a triplet loss, and the gradients that arrive at the loss and at the similarities.
template <class acc_t>
struct LossGradient {
  TermRule term;
  Reduction reduction;
  SelectedPairs<acc_t> pairs;
  const acc_t* grad_loss;         // [1], or [count] without reduction; null: none
  const acc_t* grad_positive;     // [count]; null: none
  const acc_t* grad_negative;     // [count]; null: none
  const int64_t* left = nullptr;  // [count]: the anchors; null: entry i is that of row i
};

// Gradients in the type of the rows. Null: not computed.
template <class Scalar>
struct GradientOut {
  Scalar* x;     // [count, depth]
  Scalar* refs;  // [ref_count, depth]
};

// Every row gathers its contributions in a fixed order: the pairs with it as the left row, in the order of the list,
// then those with it as the right row. O(rows + pairs) memory. `is_valid` [1]: if 0, the list is invalid, which
// counts as a non-finite row; null: the list is valid.
template <class Scalar, class acc_t>
void pair_gradient(const PairMeasure& measure, const MatrixPair<Scalar>& rows, const PairList<acc_t>& pairs,
                   NonfiniteRows nonfinite, const GradientOut<Scalar>& out, Workspace& workspace, const Stream& stream,
                   const int32_t* is_valid = nullptr);

// The same for a triplet loss.
template <class Scalar, class acc_t>
void triplet_loss_gradient(const PairMeasure& measure, const MatrixPair<Scalar>& rows, const LossGradient<acc_t>& loss,
                           NonfiniteRows nonfinite, const GradientOut<Scalar>& out, Workspace& workspace,
                           const Stream& stream);

}  // namespace hardmine::cuda
