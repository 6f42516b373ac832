// The tuplet losses, torch-free: as cpu/engine/tuplet_loss.h, but with the reduction of the loss.
#pragma once

#include "core/losses/tuplet_terms.h"
#include "cuda/kernels/pair_gradient.h"
#include "cuda/kernels/select_triplets.h"
#include "cuda/kernels/strip_gradient.h"

namespace hardmine::cuda {

// Compares with `refs`; if null, with the anchors themselves. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void tuplet_loss(const TupletRule& rule, const LabeledMatrix<Scalar>& anchors, const LabeledMatrix<Scalar>* refs,
                 int64_t depth, const TupletOut<typename MmaPolicy::acc_t>& out, Workspace& workspace,
                 const Stream& stream);

// All gradients are NaN if some row, or its norm, is not finite. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void tuplet_loss_gradient(const TupletRule& rule, const LabeledMatrix<Scalar>& anchors,
                          const LabeledMatrix<Scalar>* refs, int64_t depth,
                          const TupletSaved<typename MmaPolicy::acc_t>& saved, const GradientOut<Scalar>& out,
                          Workspace& workspace, const Stream& stream, int64_t strip_weights = kStripWeights);

}  // namespace hardmine::cuda
