// The global loss of Smart Mining, (var+ + var-) + lam max(0, mu+ - mu- + t), over the distances d+_i, d-_i of N
// triplets.
//
// Source: Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, eq. 3: population variances, and
// d = |f_a - f_x|^2 / 4 for both (the paper prints d+ without its square; its bound 0 <= d <= 1 needs it).
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hardmine {

struct GlobalRule {
  double lam = 0.8;
  double threshold = 0.01;  // t
};

// d from the measure -|f_a - f_x|^2, and the gradient of the measure from the gradient of d.
template <class T>
HARDMINE_HD T global_distance(T negative_squared_distance) {
  return negative_squared_distance / T(-4);
}
template <class T>
HARDMINE_HD T global_distance_backward(T gradient) {
  return gradient / T(-4);
}

struct Moments {
  double mean = 0;
  double variance = 0;  // of the population: over N
};

// Sums are in double, and the variance is the mean squared deviation: mean(d^2) - mu^2 would cancel.
template <class T>
Moments moments_of(const T* d, int64_t count) {
  Moments moments;
  if (count == 0) return moments;
  for (int64_t i = 0; i < count; ++i) moments.mean += static_cast<double>(d[i]);
  moments.mean /= static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i) {
    const double deviation = static_cast<double>(d[i]) - moments.mean;
    moments.variance += deviation * deviation;
  }
  moments.variance /= static_cast<double>(count);
  return moments;
}

// The argument of max(0, .), whose derivative is 0 unless the argument is positive.
HARDMINE_HD double global_gap(const GlobalRule& rule, const Moments& positive, const Moments& negative) {
  return positive.mean - negative.mean + rule.threshold;
}

HARDMINE_HD double global_loss_of(const GlobalRule& rule, const Moments& positive, const Moments& negative) {
  const double gap = global_gap(rule, positive, negative);
  return positive.variance + negative.variance + rule.lam * (gap > 0 ? gap : 0);
}

// The loss of d+ and d-, both [count]; 0 without triplets.
template <class T>
T global_loss(const GlobalRule& rule, const T* positive, const T* negative, int64_t count) {
  if (count == 0) return T(0);
  const Moments p = moments_of(positive, count), n = moments_of(negative, count);
  return T(global_loss_of(rule, p, n));
}

// d loss / d d+_i = (2 (d+_i - mu+) + lam [gap > 0]) / N. The derivative through mu+ inside the variance is 0, since
// deviations sum to 0. d loss / d d-_i has -lam instead. `loss_weight` is grad_loss / N. Only the means of the moments
// are read.
template <class T>
HARDMINE_HD void global_term_backward(const GlobalRule& rule, const Moments& p, const Moments& n, double loss_weight,
                                      T positive, T negative, T* d_positive, T* d_negative) {
  const double slope = global_gap(rule, p, n) > 0 ? rule.lam : 0;
  *d_positive = T(loss_weight * (2 * (static_cast<double>(positive) - p.mean) + slope));
  *d_negative = T(loss_weight * (2 * (static_cast<double>(negative) - n.mean) - slope));
}

// The derivatives of all triplets.
template <class T>
void global_loss_backward(const GlobalRule& rule, const T* positive, const T* negative, int64_t count, T grad_loss,
                          T* d_positive, T* d_negative) {
  const Moments p = moments_of(positive, count), n = moments_of(negative, count);
  const double loss_weight = count ? static_cast<double>(grad_loss) / static_cast<double>(count) : 0;
  for (int64_t i = 0; i < count; ++i)
    global_term_backward(rule, p, n, loss_weight, positive[i], negative[i], d_positive + i, d_negative + i);
}

}  // namespace hardmine
