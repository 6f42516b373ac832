// The tuplet losses: an anchor's positives against all its negatives at once.
//
// Source: Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, sections 2.2 and 4:
//   -log( exp(s_ap / t) / (exp(s_ap / t) + sum_n exp(s_an / t)) ) = softplus(L - s_ap / t),
//   L = log sum_n exp(s_an / t), temperature t.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "core/elementary.h"
#include "core/losses/loss_reduction.h"
#include "core/losses/triplet_terms.h"
#include "core/selection.h"

namespace hardmine {

// The order of the enumerators is that of the names in hardmine/types.py.
enum class TupletPositive { kEasiest, kHardest, kAll };

struct TupletRule {
  Similarity similarity = Similarity::kCosine;
  TupletPositive positive = TupletPositive::kEasiest;
  Reduction reduction = Reduction::kMean;
  double temperature = 0.1;
  double duplicate_threshold = std::numeric_limits<double>::infinity();  // positives with s_ap above it are dropped
  bool allow_tf32 = false;  // float32 factors of products may be rounded to TF32; only CUDA does
};

// The rule that selects the one positive of an anchor.
inline SelectionRule tuplet_selection(const TupletRule& rule) {
  SelectionRule selection;
  selection.similarity = rule.similarity;
  selection.positive = rule.positive == TupletPositive::kHardest ? Positive::kHardest : Positive::kEasiest;
  selection.duplicate_threshold = rule.duplicate_threshold;
  return selection;
}

// Similarities of unit rows span at most 2. If exp(2 / t) <= 2^64, one shift for all anchors keeps every sum within the
// range of a float, and a pair needs one exponential instead of two.
HARDMINE_HD bool one_shift_suffices(const TupletRule& rule) {
  return rule.similarity == Similarity::kCosine && 2 * kLog2E / rule.temperature <= 64;
}

// The selections that parts of the loss take: positives and hardest negatives; positives alone if one shift suffices;
// none if, besides, all positives are used.
HARDMINE_HD int64_t tuplet_selections(const TupletRule& rule) {
  if (!one_shift_suffices(rule)) return 2;
  return rule.positive == TupletPositive::kAll ? 0 : 1;
}

// L is stored as a shift, which is a similarity, and log_sum = log(sum_n exp((s_an - shift) / t)). Then
// L - s / t = (shift - s) / t + log_sum loses no digits for large s / t. Without a negative log_sum is -infinity.
HARDMINE_HD double log_of_sum(double sum) { return sum > 0 ? std::log(sum) : -std::numeric_limits<double>::infinity(); }

// An anchor's term and its slope d value / d L. By the chain rule
//   d value / d s_an = slope / t exp(s_an / t - L),
//   d value / d s_ap = -slope / t, or -sigmoid(L - s_ap / t) / (t P) for each of P positives.
struct TupletTerm {
  double value = 0;
  double slope = 0;
};

// The term of an anchor with one positive.
HARDMINE_HD TupletTerm tuplet_term(double shift, double log_sum, double positive_similarity, double temperature) {
  const double x = (shift - positive_similarity) / temperature + log_sum;
  return {softplus(x), sigmoid(x)};
}

// An anchor is valid if it has a positive and a negative.
HARDMINE_HD bool is_valid_tuplet(int64_t positives, double sum) { return positives > 0 && sum > 0; }

// The weight of an anchor's term in the loss. The mean is over the valid anchors.
HARDMINE_HD double tuplet_loss_weight(Reduction reduction, int64_t valid) {
  return reduction != Reduction::kMean ? 1.0 : valid > 0 ? 1.0 / static_cast<double>(valid) : 0.0;
}
inline double tuplet_loss_weight(Reduction reduction, const int64_t* positive_count, int64_t anchors) {
  if (reduction != Reduction::kMean) return 1;
  int64_t valid = 0;
  for (int64_t i = 0; i < anchors; ++i) valid += positive_count[i] > 0;
  return tuplet_loss_weight(reduction, valid);
}

// The coefficients of an anchor in the derivatives d loss / d s of its pairs; those of its positives are subtracted:
//   negative:        negative_weight exp((s_an - shift) / t)
//   one positive:    positive_weight
//   all positives:   positive_weight sigmoid((shift - s_ap) / t + log_sum).
// An invalid anchor has weights 0, and a shift of infinity, so that no exponential is NaN.
template <class T>
struct AnchorCoefficients {
  T negative_weight = 0;
  T shift = std::numeric_limits<T>::infinity();
  T positive_weight = 0;
  T log_sum = 0;
};

// `gradient` is that of the anchor's term, the other arguments are what forward returned for the anchor.
template <class T>
HARDMINE_HD AnchorCoefficients<T> anchor_coefficients(const TupletRule& rule, T gradient, T shift, T sum, T slope,
                                                      int64_t positive_count) {
  if (positive_count <= 0) return {};
  const double scaled = static_cast<double>(gradient) / rule.temperature;
  const double with_slope = scaled * static_cast<double>(slope);
  const bool all = rule.positive == TupletPositive::kAll;
  return {static_cast<T>(with_slope / static_cast<double>(sum)), shift,
          static_cast<T>(all ? scaled / static_cast<double>(positive_count) : with_slope),
          static_cast<T>(log_of_sum(static_cast<double>(sum)))};
}

// The loss for kMean and kSum. The sum is in double, in the order of the anchors.
template <class T>
T reduce_tuplets(Reduction reduction, const T* value, const int64_t* positive_count, int64_t anchors) {
  double sum = 0;
  for (int64_t i = 0; i < anchors; ++i) sum += static_cast<double>(value[i]);
  return static_cast<T>(sum * tuplet_loss_weight(reduction, positive_count, anchors));
}

// The gradient of an anchor's term from that of the loss, which is `grad_loss`.
template <class T>
HARDMINE_HD T tuplet_gradient(double loss_weight, T grad_loss) {
  return static_cast<T>(loss_weight * static_cast<double>(grad_loss));
}

// The gradient of each anchor's term from grad_loss: [1], or [anchors] without reduction.
template <class T>
std::vector<T> tuplet_gradients(Reduction reduction, const T* grad_loss, const int64_t* positive_count,
                                int64_t anchors) {
  const double loss_weight = tuplet_loss_weight(reduction, positive_count, anchors);
  std::vector<T> gradient(anchors);
  for (int64_t i = 0; i < anchors; ++i)
    gradient[i] = tuplet_gradient(loss_weight, grad_loss[reduction == Reduction::kNone ? i : 0]);
  return gradient;
}

}  // namespace hardmine
