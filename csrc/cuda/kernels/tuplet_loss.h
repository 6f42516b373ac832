// The tuplet losses, torch-free: as cpu/engine/tuplet_loss.h, and here the loss as well.
#pragma once

#include "core/losses/tuplet_terms.h"
#include "cuda/kernels/pair_gradient.h"
#include "cuda/kernels/select_triplets.h"

namespace hardmine::cuda {

// One entry an anchor, but for the loss. What backward takes is as the CPU's forward gives it.
template <class acc_t>
struct TupletOut {
  acc_t* loss;                 // [1], or [anchors] without reduction
  acc_t* logsumexp;            // log-sum-exp over the anchor's negatives; -infinity without any
  acc_t* positive_similarity;  // 0: none, or all
  acc_t* shift;                // logsumexp = shift / temperature + log(sum)
  acc_t* sum;                  // 0 without any negative
  acc_t* slope;                // d term / d logsumexp
  int64_t* positive_index;     // -1: none, or all
  int64_t* positive_count;     // positives that the term is the mean over; 0 for an anchor that does not count
};

// Compares with `refs`, or with the anchors themselves where `refs` is null. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void tuplet_loss(const TupletRule& rule, const LabeledRows<Scalar>& anchors, const LabeledRows<Scalar>* refs,
                 int64_t depth, const TupletOut<typename MmaPolicy::acc_t>& out, Workspace& workspace,
                 const Stream& stream);

// What forward gave, and the gradient that arrives at the loss.
template <class acc_t>
struct TupletSaved {
  const acc_t* grad_loss;  // [1], or [anchors] without reduction
  const acc_t* shift;
  const acc_t* sum;
  const acc_t* slope;
  const int64_t* positive_index;
  const int64_t* positive_count;
};

// Derivatives by similarities that are there at a time, at negated: enough to occupy a GPU. Lowered by tests only.
inline constexpr int64_t kStripWeights = int64_t{1} << 23;

// All gradients are NaN where some row, or its norm, is not finite. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void tuplet_loss_gradient(const TupletRule& rule, const LabeledRows<Scalar>& anchors, const LabeledRows<Scalar>* refs,
                          int64_t depth, const TupletSaved<typename MmaPolicy::acc_t>& saved,
                          const GradientOut<Scalar>& out, Workspace& workspace, const Stream& stream,
                          int64_t strip_weights = kStripWeights);

}  // namespace hardmine::cuda
