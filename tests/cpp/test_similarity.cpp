// The measure of each similarity, and the measure and the weight of the batch-all triplet loss.

#include "core/similarity.h"

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
