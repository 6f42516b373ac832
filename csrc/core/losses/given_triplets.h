// Losses of triplets given by the user, as both devices take them: the loss is a parameter of one flow.
//
// A loss is IndexedLoss, one term per triplet, or GlobalRule, a function of the distances of all triplets. The flow
// measures the pairs (a, p) and (a, n), keeps kept_measure of each, and reduces what it kept to the loss.
#pragma once

#include <cstdint>

#include "core/losses/global_loss.h"
#include "core/losses/loss_reduction.h"

namespace hardmine {

struct IndexedLoss {
  TermRule term;
  Reduction reduction;
};

// The number that a loss keeps per pair, and the gradient of the measure from that of the kept number.
template <class T>
HARDMINE_HD T kept_measure(const IndexedLoss&, T measure) {
  return measure;
}
template <class T>
HARDMINE_HD T kept_measure(const GlobalRule&, T measure) {
  return global_distance(measure);
}
template <class T>
HARDMINE_HD T kept_measure_backward(const IndexedLoss&, T gradient) {
  return gradient;
}
template <class T>
HARDMINE_HD T kept_measure_backward(const GlobalRule&, T gradient) {
  return global_distance_backward(gradient);
}

// The loss, and per triplet the kept numbers of its pairs (a, p) and (a, n).
template <class T>
struct TripletLossOut {
  T* loss;      // [1], or [count] without reduction
  T* positive;  // [count]
  T* negative;  // [count]
};

// The outputs of the forward pass, and the gradients that arrive at them.
template <class T>
struct TripletLossGradient {
  const T* positive;       // [count]
  const T* negative;       // [count]
  const T* grad_loss;      // [1], or [count] without reduction
  const T* grad_positive;  // [count]; null: none
  const T* grad_negative;
};

// On the host: the loss of the kept numbers, and its derivatives by them, times grad_loss.
inline bool is_reduced(const IndexedLoss& loss) { return loss.reduction != Reduction::kNone; }
inline bool is_reduced(const GlobalRule&) { return true; }
template <class T>
void reduce_triplets(const IndexedLoss& loss, const T* positive, const T* negative, int64_t count, T* out) {
  reduce_loss<T>(loss.term, loss.reduction, {nullptr, nullptr, positive, negative, count}, out);
}
template <class T>
void reduce_triplets(const GlobalRule& rule, const T* positive, const T* negative, int64_t count, T* out) {
  *out = global_loss(rule, positive, negative, count);
}
template <class T>
void reduce_triplets_backward(const IndexedLoss& loss, const TripletLossGradient<T>& gradient, int64_t count,
                              T* d_positive, T* d_negative) {
  reduce_loss_backward<T>(loss.term, loss.reduction, {nullptr, nullptr, gradient.positive, gradient.negative, count},
                          gradient.grad_loss, d_positive, d_negative);
}
template <class T>
void reduce_triplets_backward(const GlobalRule& rule, const TripletLossGradient<T>& gradient, int64_t count,
                              T* d_positive, T* d_negative) {
  global_loss_backward(rule, gradient.positive, gradient.negative, count, *gradient.grad_loss, d_positive, d_negative);
}

}  // namespace hardmine
