// The tuplet losses, torch-free: as cpu/engine/tuplet_loss.h, with the loss itself as well.
#pragma once

#include "core/losses/tuplet_terms.h"
#include "cuda/kernels/pair_gradient.h"
#include "cuda/kernels/select_triplets.h"

namespace hardmine::cuda {

// [anchors] each, except for the loss. Backward reads the same values as on the CPU.
template <class acc_t>
struct TupletOut {
  acc_t* loss;                 // [1], or [anchors] without reduction
  acc_t* logsumexp;            // over the anchor's negatives; -infinity without any
  acc_t* positive_similarity;  // 0: none, or all positives count
  acc_t* shift;                // logsumexp = shift / temperature + log(sum)
  acc_t* sum;                  // 0 without a negative
  acc_t* slope;                // d term / d logsumexp
  int64_t* positive_index;     // -1: none, or all positives count
  int64_t* positive_count;     // positives in the term's mean; 0 for an invalid anchor
};

// Compares with `refs`; if null, with the anchors themselves. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void tuplet_loss(const TupletRule& rule, const LabeledMatrix<Scalar>& anchors, const LabeledMatrix<Scalar>* refs,
                 int64_t depth, const TupletOut<typename MmaPolicy::acc_t>& out, Workspace& workspace,
                 const Stream& stream);

// What the forward pass saved, and the gradient that arrives at the loss.
template <class acc_t>
struct TupletSaved {
  const acc_t* grad_loss;         // [1], or [anchors] without reduction
  const acc_t* shift;             // [anchors]
  const acc_t* sum;               // [anchors]
  const acc_t* slope;             // [anchors]
  const int64_t* positive_index;  // [anchors]
  const int64_t* positive_count;  // [anchors]
};

// The smallest size of a strip of weights: enough to occupy a GPU. Only tests lower it.
inline constexpr int64_t kStripWeights = int64_t{1} << 23;

// All gradients are NaN if some row, or its norm, is not finite. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void tuplet_loss_gradient(const TupletRule& rule, const LabeledMatrix<Scalar>& anchors,
                          const LabeledMatrix<Scalar>* refs, int64_t depth,
                          const TupletSaved<typename MmaPolicy::acc_t>& saved, const GradientOut<Scalar>& out,
                          Workspace& workspace, const Stream& stream, int64_t strip_weights = kStripWeights);

}  // namespace hardmine::cuda
