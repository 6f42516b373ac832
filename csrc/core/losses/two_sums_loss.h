// Losses of two log-sum-exps per anchor: P over its positives and N over its negatives.
//
// Multi-similarity loss (Wang et al., CVPR 2019, equation 15), with P of -alpha (s - base) and N of beta (s - base):
//   softplus(P) / alpha + softplus(N) / beta,  d / d P = sigmoid(P) / alpha,  d / d N = sigmoid(N) / beta.
// Circle loss (Sun et al., CVPR 2020, equation 6), with P and N of gamma times the logits of pair_logit.h:
//   softplus(P + N),  d / d P = d / d N = sigmoid(P + N), for anchors with a positive and a negative; else 0.
#pragma once

#include <cmath>
#include <limits>

#include "core/elementary.h"
#include "core/losses/pair_logit.h"
#include "core/selection.h"

namespace hardmine {

struct TwoSumsRule {
  Similarity similarity = Similarity::kCosine;
  bool is_circle = false;
  double positive_scale = 1, negative_scale = 1;  // alpha and beta, or gamma twice
  double base = 0;                                // of the multi-similarity loss
  double margin = 0;                              // of the circle loss
  bool is_mean = true;                            // over the anchors that count; else the sum

  template <class T>
  PairLogit<T> positive_logit() const {
    return PairLogit<T>::of(is_circle ? LogitKind::kCircle : LogitKind::kDissimilarity, true, margin);
  }
  template <class T>
  PairLogit<T> negative_logit() const {
    return PairLogit<T>::of(is_circle ? LogitKind::kCircle : LogitKind::kSimilarity, false, margin);
  }
};

// The log-sum-exp of a scale times logits: the largest logit, and the sum of exponentials relative to it. Without a
// pair, shift is -infinity.
struct ScaledSum {
  double shift, sum;
  double minus(double logit, double scale) const {
    if (shift == -std::numeric_limits<double>::infinity()) return shift;
    return (shift - logit) * scale + std::log(sum);
  }
};

struct TwoSumsTerm {
  double loss = 0;
  double by_positives = 0, by_negatives = 0;  // the derivatives by P and N
  bool counts = false;
};

inline TwoSumsTerm two_sums_term(const TwoSumsRule& rule, const ScaledSum& positives, const ScaledSum& negatives) {
  const double p = positives.minus(-rule.base, rule.positive_scale);
  const double n = negatives.minus(rule.base, rule.negative_scale);
  if (!rule.is_circle)
    return {.loss = softplus(p) / rule.positive_scale + softplus(n) / rule.negative_scale,
            .by_positives = sigmoid(p) / rule.positive_scale,
            .by_negatives = sigmoid(n) / rule.negative_scale,
            .counts = true};
  const double both = p + n;
  if (both == -std::numeric_limits<double>::infinity()) return {};
  return {.loss = softplus(both),
          .by_positives = sigmoid(both),
          .by_negatives = sigmoid(both),
          .counts = both > -std::numeric_limits<double>::infinity()};  // NaN does not count, but stays
}

}  // namespace hardmine
