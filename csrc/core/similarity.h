// What is measured between the two rows of a pair, each a number that grows with their similarity.
#pragma once

#include "core/host_device.h"
#include "core/selection.h"

namespace hardmine {

enum class PairQuantity { kInnerProduct, kNegativeDistance, kNegativeSquaredDistance };

struct PairMeasure {
  PairQuantity quantity;
  bool normalized;  // rows are divided by their norms first
};

// The similarity that users see.
HARDMINE_HD PairMeasure measure_of(Similarity similarity) {
  return {similarity == Similarity::kEuclidean ? PairQuantity::kNegativeDistance : PairQuantity::kInnerProduct,
          similarity == Similarity::kCosine};
}

// What users see of a measure that was added up from the rows.
template <class T>
HARDMINE_HD T clamped_measure(const PairMeasure& measure, T value) {
  const bool cosine = measure.normalized && measure.quantity == PairQuantity::kInnerProduct;
  return cosine ? clamped_cosine(value) : value;
}

// Rows are divided by at least this norm, as in torch.nn.functional.normalize.
inline constexpr double kMinNorm = 1e-12;

// False for a row that is divided by kMinNorm: it has no direction, and its gradient through normalization is 0.
// `norm`: as it is divided by.
template <class T>
HARDMINE_HD bool has_direction(T norm) {
  return norm != T(kMinNorm);
}

}  // namespace hardmine
