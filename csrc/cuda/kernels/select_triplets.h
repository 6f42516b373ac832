// Selection of a positive and a negative for every anchor, and the triplet losses of them, torch-free.
#pragma once

#include "core/losses/loss_reduction.h"
#include "core/random.h"
#include "core/selection.h"
#include "core/views.h"
#include "cuda/device/launch.h"
#include "cuda/device/workspace.h"

namespace hardmine::cuda {

// A loss of the selected pairs; without one (null) they are only selected.
template <class acc_t>
struct LossOut {
  TermRule term;
  Reduction reduction = Reduction::kMean;
  acc_t* loss = nullptr;  // [1], or [anchors] without reduction
};

// Selects among `refs`, or among the anchors themselves (never the anchor) where `refs` is null. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void select_triplets(const SelectionRule& rule, const LabeledRows<Scalar>& anchors, const LabeledRows<Scalar>* refs,
                     int64_t depth, const RandomNumbers& random, const SelectionOut<typename MmaPolicy::acc_t>& out,
                     const LossOut<typename MmaPolicy::acc_t>& loss, Workspace& workspace, const Stream& stream);

}  // namespace hardmine::cuda
