// The triplet loss over all triplets (anchor, positive, negative) of a batch.
//
// Source: Ge et al., "Deep Metric Learning with Hierarchical Triplet Loss", ECCV 2018, sections 3 and 4.2:
//   1/2 [ |x_a - x_p|^2 - |x_a - x_n|^2 + margin ]_+, where the margin may depend on the classes of a and n.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/similarity.h"

namespace hardmine {

// The order of the enumerators is that of the names in hardmine/types.py.
enum class BatchAllReduction { kMean, kMeanActive, kSum };

struct BatchAllRule {
  Similarity similarity = Similarity::kCosine;  // kCosine: rows are normalized first; kEuclidean: they are not
  BatchAllReduction reduction = BatchAllReduction::kMean;
  bool squared = true;
  double margin = 0.2;
  bool allow_tf32 = false;  // float32 factors of products may be rounded to TF32; only CUDA does
};

// Margins per pair of classes: alpha(y_a, y_n) = margin[row[a] * rows + row[n]], or with ref_row[n] for a ref n.
template <class T>
struct MarginTable {
  const T* margin;     // [rows, rows]; null: BatchAllRule::margin for all
  const int64_t* row;  // [count]: the table row of each sample's class
  int64_t rows;
  const int64_t* ref_row = nullptr;  // [ref_count]; null without refs
};

// The measure that tiles hold. For unit rows |a - b|^2 / 2 = 1 - s, so inner products suffice for squared distances.
// Rows shorter than kMinNorm do not become unit rows.
HARDMINE_HD PairMeasure batch_all_measure(const BatchAllRule& rule, bool unit_rows) {
  const bool normalized = rule.similarity == Similarity::kCosine;
  const PairQuantity distance = rule.squared ? PairQuantity::kNegativeSquaredDistance : PairQuantity::kNegativeDistance;
  return {normalized && rule.squared && unit_rows ? PairQuantity::kInnerProduct : distance, normalized};
}

// A triplet's value is max(0, v_an + margin / 2 - v_ap). v of a tile's score: the inner product, or half the negative
// distance or squared distance.
template <class T>
HARDMINE_HD T batch_all_v(bool euclidean, bool squared, T score) {
  if (!euclidean) return score;
  return T(-0.5) * (squared ? score : std::sqrt(score));
}

// For v = -d / 2: dv = (y - x) / (2 d) = (y - x) / (-4 v), so `weight` becomes a weight of y - x. At d = 0 the
// subgradient is 0.
template <class T>
HARDMINE_HD T batch_all_distance_weight(T weight, T v) {
  return v < T(0) ? weight / (T(-4) * v) : T(0);
}

// The factor of the sum over all triplets.
HARDMINE_HD double batch_all_loss_weight(BatchAllReduction reduction, int64_t active, int64_t total) {
  const int64_t count = reduction == BatchAllReduction::kMean ? total : active;
  if (reduction == BatchAllReduction::kSum) return 1;
  return count ? 1 / static_cast<double>(count) : 0;
}

}  // namespace hardmine
