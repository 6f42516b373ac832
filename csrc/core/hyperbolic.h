// The distance of the Poincare ball. Rows arrive as [x, 1 - |x|^2], and the last element is called the gap:
//   score q = 2 |x - y|^2 / (gap_x gap_y),   distance d = arcosh(1 + q) = log(1 + q + sqrt(q (q + 2))).
// The derivative by x splits in two. With w the gradient of the similarity -d, and slope = 4 / (gap_x gap_y sinh d),
//   d(-d) / dx = slope (y - x) - slope |y - x|^2 x / gap_x.
// The first part is summed over pairs as that of other distances is, in all columns: that of the gap adds up
// w slope (gap_y - gap_x), from which and from x the caller computes the second part (hardmine/ops/_hyperbolic.py).
//
// Source: Nickel and Kiela, "Poincare Embeddings for Learning Hierarchical Representations", NeurIPS 2017, equation 1.
#pragma once

#include <cmath>
#include <limits>

#include "core/host_device.h"

namespace hardmine {

template <class T>
HARDMINE_HD T hyperbolic_score(T squared_distance, T gap_x, T gap_y) {
  return (squared_distance + squared_distance) / (gap_x * gap_y);
}

// sinh of the distance, from the score. The square of a score may overflow.
template <class T>
HARDMINE_HD T hyperbolic_sinh(T score) {
  return std::sqrt(score) * std::sqrt(score + T(2));
}

template <class T>
HARDMINE_HD T hyperbolic_distance(T score) {
  return std::log1p(score + hyperbolic_sinh(score));
}

// The inverse: cosh d - 1.
template <class T>
HARDMINE_HD T hyperbolic_score_at(T distance) {
  const T sinh_half = std::sinh(distance / 2);
  return 2 * sinh_half * sinh_half;
}

// The slope above; 0 at distance 0, the subgradient that other distances have there.
template <class T>
HARDMINE_HD T hyperbolic_slope(T score, T gap_x, T gap_y) {
  return score < std::numeric_limits<T>::min() ? T(0) : T(4) / (gap_x * gap_y * hyperbolic_sinh(score));
}

// The score as a product: |x - y|^2 times the factors of both rows. The slope from the product of these factors.
template <class T>
HARDMINE_HD T hyperbolic_factor(T gap) {
  return T(1.4142135623730950488) / gap;
}
template <class T>
HARDMINE_HD T hyperbolic_slope(T score, T factors) {
  return score < std::numeric_limits<T>::min() ? T(0) : (factors + factors) / hyperbolic_sinh(score);
}

}  // namespace hardmine
