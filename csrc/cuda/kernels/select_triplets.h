// Selects a positive and a negative per anchor, and computes their triplet loss, torch-free.
#pragma once

#include "core/losses/loss_reduction.h"
#include "core/random.h"
#include "core/selection.h"
#include "core/views.h"
#include "cuda/device/launch.h"

namespace hardmine::cuda {

// The loss of the selected pairs. Null loss: pairs are only selected.
template <class acc_t>
struct LossOut {
  TermRule term;
  Reduction reduction = Reduction::kMean;
  acc_t* loss = nullptr;  // [1], or [anchors] without reduction
};

// Selects among `refs`; if null, among the anchors themselves, but never the anchor. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void select_triplets(const SelectionRule& rule, const LabeledMatrix<Scalar>& anchors, const LabeledMatrix<Scalar>* refs,
                     int64_t depth, const RandomNumbers& random, const SelectionOut<typename MmaPolicy::acc_t>& out,
                     const LossOut<typename MmaPolicy::acc_t>& loss, Workspace& workspace, const Stream& stream);

}  // namespace hardmine::cuda
