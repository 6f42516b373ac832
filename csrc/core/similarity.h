// The quantities that are measured between the two rows of a pair. Each grows with their similarity.
#pragma once

#include <cmath>

#include "core/host_device.h"
#include "core/selection.h"

namespace hardmine {

enum class PairQuantity { kInnerProduct, kNegativeDistance, kNegativeSquaredDistance, kNegativeHyperbolicDistance };

struct PairMeasure {
  PairQuantity quantity;
  bool normalized;  // rows are divided by their norms first
};

// The measure whose value is the similarity that users see.
HARDMINE_HD PairMeasure measure_of(Similarity similarity) {
  if (similarity == Similarity::kHyperbolic) return {PairQuantity::kNegativeHyperbolicDistance, false};
  return {similarity == Similarity::kEuclidean ? PairQuantity::kNegativeDistance : PairQuantity::kInnerProduct,
          similarity == Similarity::kCosine};
}

// True if a tile's scores are squared distances or those of hyperbolic.h, false if they are inner products.
HARDMINE_HD bool is_distance(const PairMeasure& measure) { return measure.quantity != PairQuantity::kInnerProduct; }
HARDMINE_HD bool is_hyperbolic(const PairMeasure& measure) {
  return measure.quantity == PairQuantity::kNegativeHyperbolicDistance;
}

// The key of a tile's score, which is an inner product or a squared distance, and its similarity before it is clamped.
template <class T>
HARDMINE_HD T key_from_score(bool euclidean, T score) {
  return euclidean ? -score : score;
}
template <class T>
HARDMINE_HD T similarity_from_score(bool euclidean, T score) {
  return euclidean ? -std::sqrt(score) : score;
}
template <class T>
HARDMINE_HD T similarity_from_score(PairQuantity quantity, T score) {
  if (quantity == PairQuantity::kNegativeHyperbolicDistance) return -hyperbolic_distance(score);
  return similarity_from_score(quantity != PairQuantity::kInnerProduct, score);
}

// The value that users see of a measure, from a sum over the rows' elements: the inner product or the squared distance.
template <class T>
HARDMINE_HD T measure_from_sum(const PairMeasure& measure, T sum) {
  if (measure.quantity == PairQuantity::kInnerProduct) return measure.normalized ? clamped_cosine(sum) : sum;
  return measure.quantity == PairQuantity::kNegativeDistance ? -std::sqrt(sum) : -sum;
}

// Norms are clamped from below to this before rows are divided by them, as in torch.nn.functional.normalize.
inline constexpr double kMinNorm = 1e-12;

// False if the clamped norm is kMinNorm: the row has no direction, and its gradient through normalization is 0.
template <class T>
HARDMINE_HD bool has_direction(T norm) {
  return norm != T(kMinNorm);
}

}  // namespace hardmine
