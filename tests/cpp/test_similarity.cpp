// The measure of each similarity, and the measure and the weight of the batch-all triplet loss.

#include "core/similarity.h"

#include <cmath>

#include "core/losses/batch_all.h"
#include "support/check.h"

using namespace hardmine;

namespace {

bool is(const PairMeasure& measure, PairQuantity quantity, bool normalized) {
  return measure.quantity == quantity && measure.normalized == normalized;
}

}  // namespace

TEST(measure_of_similarity_gives_quantity) {
  CHECK(is(measure_of(Similarity::kCosine), PairQuantity::kInnerProduct, true));
  CHECK(is(measure_of(Similarity::kDot), PairQuantity::kInnerProduct, false));
  CHECK(is(measure_of(Similarity::kEuclidean), PairQuantity::kNegativeDistance, false));
  CHECK(is(measure_of(Similarity::kHyperbolic), PairQuantity::kNegativeHyperbolicDistance, false));
  CHECK(is_distance(measure_of(Similarity::kHyperbolic)));
  CHECK(is_hyperbolic(measure_of(Similarity::kHyperbolic)));
  CHECK(!is_hyperbolic(measure_of(Similarity::kEuclidean)));
}

TEST(hyperbolic_distance_from_origin_is_twice_artanh) {
  for (const double norm : {0.0, 1e-9, 0.25, 0.5, 0.999}) {
    const double score = hyperbolic_score(norm * norm, 1.0, 1 - norm * norm);
    CHECK(std::abs(hyperbolic_distance(score) - 2 * std::atanh(norm)) <= 1e-14 * (1 + 2 * std::atanh(norm)));
    CHECK(std::abs(std::sinh(hyperbolic_distance(score)) - hyperbolic_sinh(score)) <= 1e-13 * hyperbolic_sinh(score));
  }
}

TEST(hyperbolic_keys_are_those_of_their_similarities) {
  for (const double similarity : {-7.5, -1.0, -1e-6, 0.0}) {
    const double key = key_from_similarity(Similarity::kHyperbolic, similarity);
    CHECK(std::abs(similarity_from_key(Similarity::kHyperbolic, key) - similarity) <= 1e-14 * (1 - similarity));
  }
  CHECK_EQ(key_from_similarity(Similarity::kHyperbolic, 0.5), 0.5);  // above every distance
}

TEST(hyperbolic_slope_is_the_derivative_of_the_distance) {
  // On a line through the origin, from 0.1 to 0.6: the distance grows by 2 / gap per unit.
  const double x = 0.6, y = 0.1, gap_x = 1 - x * x, gap_y = 1 - y * y, square = (x - y) * (x - y);
  const double slope = hyperbolic_slope(hyperbolic_score(square, gap_x, gap_y), gap_x, gap_y);
  CHECK(std::abs(slope * (x - y) + slope * square * x / gap_x - 2 / gap_x) <= 1e-13);
  CHECK_EQ(hyperbolic_slope(0.0, gap_x, gap_x), 0.0);
}

TEST(batch_all_measure_unit_rows_use_inner_products) {
  const auto measure = [](Similarity similarity, bool squared, bool unit_rows) {
    BatchAllRule rule;
    rule.similarity = similarity;
    rule.squared = squared;
    return batch_all_measure(rule, unit_rows);
  };
  CHECK(is(measure(Similarity::kCosine, true, true), PairQuantity::kInnerProduct, true));
  CHECK(is(measure(Similarity::kCosine, true, false), PairQuantity::kNegativeSquaredDistance, true));
  for (const bool unit_rows : {false, true}) {
    CHECK(is(measure(Similarity::kCosine, false, unit_rows), PairQuantity::kNegativeDistance, true));
    CHECK(is(measure(Similarity::kEuclidean, true, unit_rows), PairQuantity::kNegativeSquaredDistance, false));
    CHECK(is(measure(Similarity::kEuclidean, false, unit_rows), PairQuantity::kNegativeDistance, false));
  }
}

TEST(batch_all_share_follows_reduction) {
  CHECK_EQ(batch_all_loss_weight(BatchAllReduction::kMean, 2, 8), 0.125);
  CHECK_EQ(batch_all_loss_weight(BatchAllReduction::kMeanActive, 2, 8), 0.5);
  CHECK_EQ(batch_all_loss_weight(BatchAllReduction::kSum, 2, 8), 1);
  CHECK_EQ(batch_all_loss_weight(BatchAllReduction::kMeanActive, 0, 8), 0);
  CHECK_EQ(batch_all_loss_weight(BatchAllReduction::kMean, 0, 0), 0);
}
