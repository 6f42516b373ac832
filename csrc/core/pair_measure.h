// What is measured between the two rows of a pair, each a number that grows with their similarity.
#pragma once

#include "host_device.h"
#include "selection.h"

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

}  // namespace hardmine
