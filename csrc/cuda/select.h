// Selection of a positive and a negative for every anchor, and the triplet losses of them, torch-free.
#pragma once

#include "../core/loss_reduction.h"
#include "../core/selection.h"
#include "launch.h"
#include "workspace.h"

namespace hardmine::cuda {

// Embeddings and labels as the user gave them.
template <class Scalar>
struct LabelledRows {
  const Scalar* x;       // [count, depth]
  const int64_t* label;  // [count]
  int64_t count;
};

// One entry an anchor; index -1 and similarity NaN where there is no candidate.
template <class Number>
struct SelectionOut {
  int64_t* positive_index;
  int64_t* negative_index;
  Number* positive_similarity;
  Number* negative_similarity;
};

// The uniform numbers in [0, 1), one an anchor, that a random selection picks by; null for one that is not random.
struct RandomNumbers {
  const double* positive = nullptr;
  const double* negative = nullptr;
};

// A loss of the selected pairs; without one (null) they are only selected.
template <class Number>
struct LossOut {
  TermRule term;
  Reduction reduction = Reduction::kMean;
  Number* loss = nullptr;  // [1], or [anchors] without reduction
};

// Selects among `refs`, or among the anchors themselves (never the anchor) where `refs` is null. O(N depth) memory.
template <class Arithmetic, class Scalar>
void select_triplets(const SelectionRule& rule, const LabelledRows<Scalar>& anchors, const LabelledRows<Scalar>* refs,
                     int64_t depth, const RandomNumbers& random, const SelectionOut<typename Arithmetic::Number>& out,
                     const LossOut<typename Arithmetic::Number>& loss, Workspace& workspace, const Stream& stream);

}  // namespace hardmine::cuda
