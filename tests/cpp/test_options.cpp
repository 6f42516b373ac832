#include "core/options.h"

#include <stdexcept>

#include "support/check.h"

using namespace hardmine;

TEST(selection_rule_codes_give_enumerators) {
  const SelectionRule first = selection_rule(0, 0, 0, 0, 0, 0.5, 0.25, false);
  CHECK(first.similarity == Similarity::kCosine);
  CHECK(first.positive == Positive::kEasiest);
  CHECK(first.negative == Negative::kHardest);
  CHECK(first.semihard_fallback == Fallback::kNone);
  CHECK(!first.semihard_keeps_ties);
  CHECK(!first.allow_tf32);
  CHECK_EQ(first.duplicate_threshold, 0.5);
  CHECK_EQ(first.semihard_margin, 0.25);
  const SelectionRule last = selection_rule(2, 2, 3, 2, 1, 0.5, 0.25, true);
  CHECK(last.similarity == Similarity::kEuclidean);
  CHECK(last.positive == Positive::kRandom);
  CHECK(last.negative == Negative::kRandom);
  CHECK(last.semihard_fallback == Fallback::kEasiest);
  CHECK(last.semihard_keeps_ties);
  CHECK(last.allow_tf32);
}

TEST(loss_rule_codes_give_enumerators) {
  const LossRule first = loss_rule(0, 0, false, 1, 2, 3, 4, 5, 0);
  CHECK(first.term.term == Term::kNca);
  CHECK(first.term.hard_rule == HardRule::kAbove);
  CHECK(!first.term.separate_means);
  CHECK(first.reduction == Reduction::kMean);
  CHECK_EQ(first.term.temperature, 1);
  CHECK_EQ(first.term.margin, 2);
  CHECK_EQ(first.term.lam, 3);
  CHECK_EQ(first.term.hard_cutoff, 4);
  CHECK_EQ(first.term.min_similarity, 5);
  const LossRule last = loss_rule(3, 2, true, 1, 2, 3, 4, 5, 2);
  CHECK(last.term.term == Term::kSct);
  CHECK(last.term.hard_rule == HardRule::kAboveOrCutoff);
  CHECK(last.term.separate_means);
  CHECK(last.reduction == Reduction::kNone);
  CHECK(!last.term.only_active);
  const LossRule active = loss_rule(1, 0, false, 1, 2, 3, 4, 5, 3);
  CHECK(active.term.only_active);
  CHECK(active.reduction == Reduction::kMean);
}

TEST(all_positives_rule_refuses_random_negatives) {
  const SelectionRule rule = all_positives_rule(2, 2, 2, 1, 0.5, 0.25, false);
  CHECK(rule.similarity == Similarity::kEuclidean);
  CHECK(rule.negative == Negative::kSemihard);
  CHECK(rule.semihard_fallback == Fallback::kEasiest);
  CHECK(rule.semihard_keeps_ties);
  CHECK_EQ(rule.duplicate_threshold, 0.5);
  CHECK_EQ(rule.semihard_margin, 0.25);
  CHECK_THROWS(all_positives_rule(0, 3, 0, 0, 1, 1, false), std::invalid_argument,
               "negative must not be random with all positives");
}

TEST(indexed_loss_rule_codes_give_enumerators) {
  const IndexedLossRule first = indexed_loss_rule(0, 0, 1, 2, 3, 0);
  CHECK(first.term.term == Term::kNca);
  CHECK(first.reduction == Reduction::kMean);
  CHECK_EQ(first.term.temperature, 1);
  CHECK_EQ(first.term.margin, 2);
  CHECK_EQ(first.term.lam, 3);
  CHECK(first.measure.quantity == PairQuantity::kInnerProduct && first.measure.normalized);
  const IndexedLossRule dot = indexed_loss_rule(1, 1, 1, -2, 3, 1), euclidean = indexed_loss_rule(2, 3, 1, 2, 3, 2);
  CHECK(dot.measure.quantity == PairQuantity::kInnerProduct && !dot.measure.normalized);
  CHECK(dot.reduction == Reduction::kSum);
  CHECK(euclidean.measure.quantity == PairQuantity::kNegativeDistance && !euclidean.measure.normalized);
  CHECK(euclidean.term.term == Term::kSct);
  CHECK(euclidean.reduction == Reduction::kNone);
  const IndexedLossRule ratio = indexed_loss_rule(0, 4, 1, 2, 3, 0), plain_ratio = indexed_loss_rule(2, 4, 1, 2, 3, 0);
  CHECK(ratio.term.term == Term::kRatio);
  CHECK(ratio.measure.quantity == PairQuantity::kNegativeDistance && ratio.measure.normalized);
  CHECK(plain_ratio.measure.quantity == PairQuantity::kNegativeDistance && !plain_ratio.measure.normalized);

  const GlobalLossRule global = global_loss_rule(0, 1, 2), plain_global = global_loss_rule(2, 1, 2);
  CHECK_EQ(global.rule.lam, 1);
  CHECK_EQ(global.rule.threshold, 2);
  CHECK(global.measure.quantity == PairQuantity::kNegativeSquaredDistance && global.measure.normalized);
  CHECK(plain_global.measure.quantity == PairQuantity::kNegativeSquaredDistance && !plain_global.measure.normalized);
}

TEST(tuplet_rule_codes_give_enumerators) {
  const TupletRule first = tuplet_rule(0, 0, 0.25, 0.5, 0, false);
  CHECK(first.similarity == Similarity::kCosine);
  CHECK(first.positive == TupletPositive::kEasiest);
  CHECK(first.reduction == Reduction::kMean);
  CHECK_EQ(first.temperature, 0.25);
  CHECK_EQ(first.duplicate_threshold, 0.5);
  CHECK(!first.allow_tf32);
  const TupletRule middle = tuplet_rule(1, 1, 1, 2, 1, false), last = tuplet_rule(2, 2, 1, 2, 2, true);
  CHECK(middle.similarity == Similarity::kDot);
  CHECK(middle.positive == TupletPositive::kHardest);
  CHECK(middle.reduction == Reduction::kSum);
  CHECK(last.similarity == Similarity::kEuclidean);
  CHECK(last.positive == TupletPositive::kAll);
  CHECK(!middle.allow_tf32 && last.allow_tf32);
  CHECK(last.reduction == Reduction::kNone);
}

TEST(batch_all_rule_codes_give_enumerators) {
  const BatchAllRule first = batch_all_rule(0, false, 0.25, 0, false), last = batch_all_rule(2, true, -1, 2, true);
  CHECK(first.similarity == Similarity::kCosine);
  CHECK(first.reduction == BatchAllReduction::kMean);
  CHECK(!first.squared);
  CHECK_EQ(first.margin, 0.25);
  CHECK(last.similarity == Similarity::kEuclidean);
  CHECK(last.reduction == BatchAllReduction::kSum);
  CHECK(last.squared);
  CHECK(!first.allow_tf32 && last.allow_tf32);
  CHECK_EQ(last.margin, -1);
  CHECK(batch_all_rule(0, false, 0, 1, false).reduction == BatchAllReduction::kMeanActive);
}

TEST(options_unknown_code_is_an_error_with_its_value) {
  const auto is_no_code = [](const char* name, int64_t last, int64_t code) {
    return std::string(name) + " must be a code from 0 to " + std::to_string(last) + ", got " + std::to_string(code);
  };
  for (const int64_t beyond : {-1, 1}) {
    const auto wrong = [&](int64_t last) { return beyond < 0 ? -1 : last + 1; };
    const auto selection = [](int64_t similarity, int64_t positive, int64_t negative, int64_t fallback, int64_t tie) {
      return selection_rule(similarity, positive, negative, fallback, tie, 1, 1, false);
    };
    CHECK_THROWS(selection(wrong(3), 0, 0, 0, 0), std::invalid_argument, is_no_code("similarity", 3, wrong(3)));
    CHECK_THROWS(selection(0, wrong(2), 0, 0, 0), std::invalid_argument, is_no_code("positive", 2, wrong(2)));
    CHECK_THROWS(selection(0, 0, wrong(3), 0, 0), std::invalid_argument, is_no_code("negative", 3, wrong(3)));
    CHECK_THROWS(selection(0, 0, 0, wrong(2), 0), std::invalid_argument, is_no_code("semihard_fallback", 2, wrong(2)));
    CHECK_THROWS(selection(0, 0, 0, 0, wrong(1)), std::invalid_argument, is_no_code("tie", 1, wrong(1)));
    const auto loss = [](int64_t term, int64_t hard_rule, int64_t reduction) {
      return loss_rule(term, hard_rule, false, 1, 1, 1, 1, 1, reduction);
    };
    CHECK_THROWS(loss(wrong(3), 0, 0), std::invalid_argument, is_no_code("term", 3, wrong(3)));
    CHECK_THROWS(loss(0, wrong(2), 0), std::invalid_argument, is_no_code("hard_rule", 2, wrong(2)));
    CHECK_THROWS(loss(0, 0, wrong(3)), std::invalid_argument, is_no_code("reduction", 3, wrong(3)));
    const auto indexed = [](int64_t similarity, int64_t term, int64_t reduction) {
      return indexed_loss_rule(similarity, term, 1, 1, 1, reduction);
    };
    CHECK_THROWS(indexed(wrong(2), 0, 0), std::invalid_argument, is_no_code("similarity", 2, wrong(2)));
    CHECK_THROWS(indexed(0, wrong(4), 0), std::invalid_argument, is_no_code("term", 4, wrong(4)));
    CHECK_THROWS(indexed(0, 0, wrong(2)), std::invalid_argument, is_no_code("reduction", 2, wrong(2)));
    CHECK_THROWS(global_loss_rule(wrong(2), 1, 1), std::invalid_argument, is_no_code("similarity", 2, wrong(2)));
    const auto tuplet = [](int64_t similarity, int64_t positive, int64_t reduction) {
      return tuplet_rule(similarity, positive, 1, 1, reduction, false);
    };
    CHECK_THROWS(tuplet(wrong(2), 0, 0), std::invalid_argument, is_no_code("similarity", 2, wrong(2)));
    CHECK_THROWS(tuplet(0, wrong(2), 0), std::invalid_argument, is_no_code("positive", 2, wrong(2)));
    CHECK_THROWS(tuplet(0, 0, wrong(2)), std::invalid_argument, is_no_code("reduction", 2, wrong(2)));
    const auto batch_all = [](int64_t similarity, int64_t reduction) {
      return batch_all_rule(similarity, false, 1, reduction, false);
    };
    CHECK_THROWS(batch_all(wrong(2), 0), std::invalid_argument, is_no_code("similarity", 2, wrong(2)));
    CHECK_THROWS(batch_all(0, wrong(2)), std::invalid_argument, is_no_code("reduction", 2, wrong(2)));
  }
}

TEST(options_invalid_for_loss_are_errors) {
  CHECK_THROWS(indexed_loss_rule(1, 4, 1, 1, 1, 0), std::invalid_argument,
               "similarity must not be dot with term ratio");
  CHECK_THROWS(indexed_loss_rule(0, 4, 1, 0, 1, 0), std::invalid_argument, "margin must be > 0 with term ratio");
  CHECK_THROWS(global_loss_rule(1, 1, 1), std::invalid_argument, "similarity must not be dot with global_loss");
  CHECK_THROWS(batch_all_rule(1, false, 1, 0, false), std::invalid_argument,
               "similarity must not be dot with batch_all_triplet_loss");
  for (const double temperature : {0.0, -1.0, 1e-31, std::numeric_limits<double>::quiet_NaN()})
    CHECK_THROWS(tuplet_rule(0, 0, temperature, 1, 0, false), std::invalid_argument,
                 "temperature must be at least 1e-30");
  CHECK_EQ(tuplet_rule(0, 0, 1e-30, 1, 0, false).temperature, 1e-30);
}
