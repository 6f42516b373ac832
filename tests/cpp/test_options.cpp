#include "../../csrc/core/options.h"

#include "check.h"

using namespace hardmine;

namespace {

template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST(codes_give_selection_rules) {
  const SelectionRule first = selection_rule({0, 0, 0, 0, 0, 0}, {0.5, 0.25});
  CHECK(first.similarity == Similarity::kCosine);
  CHECK(first.positive == Positive::kEasiest);
  CHECK(first.negative == Negative::kHardest);
  CHECK(first.semihard_fallback == Fallback::kNone);
  CHECK(!first.semihard_keeps_ties);
  CHECK(!first.allow_tf32);
  CHECK_EQ(first.duplicate_threshold, 0.5);
  CHECK_EQ(first.semihard_margin, 0.25);
  const SelectionRule last = selection_rule({2, 2, 3, 2, 1, 1}, {0.5, 0.25});
  CHECK(last.similarity == Similarity::kEuclidean);
  CHECK(last.positive == Positive::kRandom);
  CHECK(last.negative == Negative::kRandom);
  CHECK(last.semihard_fallback == Fallback::kEasiest);
  CHECK(last.semihard_keeps_ties);
  CHECK(last.allow_tf32);
}

TEST(codes_give_loss_rules) {
  const LossRule first({0, 0, 0, 0}, {1, 2, 3, 4, 5});
  CHECK(first.term.term == Term::kNca);
  CHECK(first.term.hard_rule == HardRule::kAbove);
  CHECK(!first.term.separate_means);
  CHECK(first.reduction == Reduction::kMean);
  CHECK_EQ(first.term.temperature, 1);
  CHECK_EQ(first.term.margin, 2);
  CHECK_EQ(first.term.lam, 3);
  CHECK_EQ(first.term.hard_cutoff, 4);
  CHECK_EQ(first.term.min_similarity, 5);
  const LossRule last({3, 2, 1, 2}, {1, 2, 3, 4, 5});
  CHECK(last.term.term == Term::kSct);
  CHECK(last.term.hard_rule == HardRule::kAboveOrCutoff);
  CHECK(last.term.separate_means);
  CHECK(last.reduction == Reduction::kNone);
}

TEST(codes_give_rules_of_given_triplets) {
  const IndexedLossRule first({0, 0, 0}, {1, 2, 3});
  CHECK(first.term.term == Term::kNca);
  CHECK(first.reduction == Reduction::kMean);
  CHECK_EQ(first.term.temperature, 1);
  CHECK_EQ(first.term.margin, 2);
  CHECK_EQ(first.term.lam, 3);
  CHECK(first.measure.quantity == PairQuantity::kInnerProduct && first.measure.normalized);
  const IndexedLossRule dot({1, 1, 1}, {1, -2, 3}), euclidean({2, 3, 2}, {1, 2, 3});
  CHECK(dot.measure.quantity == PairQuantity::kInnerProduct && !dot.measure.normalized);
  CHECK(dot.reduction == Reduction::kSum);
  CHECK(euclidean.measure.quantity == PairQuantity::kNegativeDistance && !euclidean.measure.normalized);
  CHECK(euclidean.term.term == Term::kSct);
  CHECK(euclidean.reduction == Reduction::kNone);
  const IndexedLossRule ratio({0, 4, 0}, {1, 2, 3}), plain_ratio({2, 4, 0}, {1, 2, 3});
  CHECK(ratio.term.term == Term::kRatio);
  CHECK(ratio.measure.quantity == PairQuantity::kNegativeDistance && ratio.measure.normalized);
  CHECK(plain_ratio.measure.quantity == PairQuantity::kNegativeDistance && !plain_ratio.measure.normalized);

  const GlobalLossRule global({0}, {1, 2}), plain_global({2}, {1, 2});
  CHECK_EQ(global.rule.lam, 1);
  CHECK_EQ(global.rule.threshold, 2);
  CHECK(global.measure.quantity == PairQuantity::kNegativeSquaredDistance && global.measure.normalized);
  CHECK(plain_global.measure.quantity == PairQuantity::kNegativeSquaredDistance && !plain_global.measure.normalized);
}

TEST(codes_give_rules_of_all_negatives) {
  const TupletRule first = tuplet_rule({0, 0, 0, 0}, {0.25, 0.5});
  CHECK(first.similarity == Similarity::kCosine);
  CHECK(first.positive == TupletPositive::kEasiest);
  CHECK(first.reduction == Reduction::kMean);
  CHECK_EQ(first.temperature, 0.25);
  CHECK_EQ(first.duplicate_threshold, 0.5);
  CHECK(!first.allow_tf32);
  const TupletRule middle = tuplet_rule({1, 1, 1, 0}, {1, 2}), last = tuplet_rule({2, 2, 2, 1}, {1, 2});
  CHECK(middle.similarity == Similarity::kDot);
  CHECK(middle.positive == TupletPositive::kHardest);
  CHECK(middle.reduction == Reduction::kSum);
  CHECK(last.similarity == Similarity::kEuclidean);
  CHECK(last.positive == TupletPositive::kAll);
  CHECK(!middle.allow_tf32 && last.allow_tf32);
  CHECK(last.reduction == Reduction::kNone);
}

TEST(codes_give_rules_of_all_triplets) {
  const BatchAllRule first = batch_all_rule({0, 0, 0, 0}, {0.25}), last = batch_all_rule({2, 2, 1, 1}, {-1});
  CHECK(first.similarity == Similarity::kCosine);
  CHECK(first.reduction == BatchAllReduction::kMean);
  CHECK(!first.squared);
  CHECK_EQ(first.margin, 0.25);
  CHECK(last.similarity == Similarity::kEuclidean);
  CHECK(last.reduction == BatchAllReduction::kSum);
  CHECK(last.squared);
  CHECK(!first.allow_tf32 && last.allow_tf32);
  CHECK_EQ(last.margin, -1);
  const BatchAllRule middle = batch_all_rule({0, 1, 0, 0}, {0});
  CHECK(middle.reduction == BatchAllReduction::kMeanActive);
  CHECK(!middle.squared);
}

TEST(lists_of_two_rules_come_apart) {
  const auto [first, second] = split_options<int64_t>("modes", {5, 6, 7}, 2, 1);
  CHECK(first == (std::vector<int64_t>{5, 6}));
  CHECK(second == std::vector<int64_t>{7});
  for (const std::vector<double>& wrong : {std::vector<double>{}, {1, 2}, {1, 2, 3, 4}}) {
    CHECK_EQ(error_of([&] { split_options("numbers", wrong, 2, 1); }),
             "numbers must hold 3 numbers, got " + std::to_string(wrong.size()));
  }
}

TEST(unknown_codes_and_wrong_counts_are_errors_that_say_what_came) {
  const auto selection = [](std::vector<int64_t> modes, std::vector<double> limits) {
    return error_of([&] { selection_rule(modes, limits); });
  };
  CHECK_EQ(selection({3, 0, 0, 0, 0, 0}, {1, 1}), std::string("similarity must be a code from 0 to 2, got 3"));
  CHECK_EQ(selection({0, -1, 0, 0, 0, 0}, {1, 1}), std::string("positive must be a code from 0 to 2, got -1"));
  CHECK_EQ(selection({0, 0, 0, 0, 2, 0}, {1, 1}), std::string("tie must be a code from 0 to 1, got 2"));
  CHECK_EQ(selection({0, 0, 0, 0, 0}, {1, 1}), std::string("selection_modes must hold 6 numbers, got 5"));
  CHECK_EQ(selection({0, 0, 0, 0, 0, 0}, {}), std::string("selection_limits must hold 2 numbers, got 0"));
  const auto loss = [](std::vector<int64_t> modes, std::vector<double> numbers) {
    return error_of([&] { LossRule(modes, numbers); });
  };
  CHECK_EQ(loss({4, 0, 0, 0}, {1, 1, 1, 1, 1}), std::string("term must be a code from 0 to 3, got 4"));
  CHECK_EQ(loss({0, 0, 0, 3}, {1, 1, 1, 1, 1}), std::string("reduction must be a code from 0 to 2, got 3"));
  CHECK_EQ(loss({0, 0, 0}, {1, 1, 1, 1, 1}), std::string("loss_modes must hold 4 numbers, got 3"));
  CHECK_EQ(loss({0, 0, 0, 0}, {1, 1, 1, 1}), std::string("loss_numbers must hold 5 numbers, got 4"));
  const auto indexed = [](std::vector<int64_t> modes, std::vector<double> numbers) {
    return error_of([&] { IndexedLossRule(modes, numbers); });
  };
  CHECK_EQ(indexed({0, 5, 0}, {1, 1, 1}), std::string("term must be a code from 0 to 4, got 5"));
  CHECK_EQ(indexed({3, 0, 0}, {1, 1, 1}), std::string("similarity must be a code from 0 to 2, got 3"));
  CHECK_EQ(indexed({0, 0, -1}, {1, 1, 1}), std::string("reduction must be a code from 0 to 2, got -1"));
  CHECK_EQ(indexed({0, 0}, {1, 1, 1}), std::string("modes must hold 3 numbers, got 2"));
  CHECK_EQ(indexed({0, 0, 0}, {1}), std::string("numbers must hold 3 numbers, got 1"));
  CHECK_EQ(indexed({1, 4, 0}, {1, 1, 1}), std::string("similarity must not be dot with term ratio"));
  CHECK_EQ(indexed({0, 4, 0}, {1, 0, 1}), std::string("margin must be > 0 with term ratio"));
  const auto global = [](std::vector<int64_t> modes, std::vector<double> numbers) {
    return error_of([&] { GlobalLossRule(modes, numbers); });
  };
  CHECK_EQ(global({1}, {1, 1}), std::string("similarity must not be dot with global_loss"));
  CHECK_EQ(global({0, 0}, {1, 1}), std::string("modes must hold 1 numbers, got 2"));
  CHECK_EQ(global({0}, {1}), std::string("numbers must hold 2 numbers, got 1"));
  const auto tuplet = [](std::vector<int64_t> modes, std::vector<double> numbers) {
    return error_of([&] { tuplet_rule(modes, numbers); });
  };
  CHECK_EQ(tuplet({3, 0, 0, 0}, {1, 1}), std::string("similarity must be a code from 0 to 2, got 3"));
  CHECK_EQ(tuplet({0, 3, 0, 0}, {1, 1}), std::string("positive must be a code from 0 to 2, got 3"));
  CHECK_EQ(tuplet({0, 0, -1, 0}, {1, 1}), std::string("reduction must be a code from 0 to 2, got -1"));
  CHECK_EQ(tuplet({0, 0, 0, 0, 0}, {1, 1}), std::string("tuplet_modes must hold 4 numbers, got 5"));
  CHECK_EQ(tuplet({0, 0, 0, 0}, {1}), std::string("tuplet_numbers must hold 2 numbers, got 1"));
  for (const double temperature : {0.0, -1.0, 1e-31, std::numeric_limits<double>::quiet_NaN()})
    CHECK_EQ(tuplet({0, 0, 0, 0}, {temperature, 1}), std::string("temperature must be at least 1e-30"));
  CHECK_EQ(tuplet({0, 0, 0, 0}, {1e-30, 1}), std::string("no error"));
  const auto batch_all = [](std::vector<int64_t> modes, std::vector<double> numbers) {
    return error_of([&] { batch_all_rule(modes, numbers); });
  };
  CHECK_EQ(batch_all({1, 0, 0, 0}, {1}), std::string("similarity must not be dot with batch_all_triplet_loss"));
  CHECK_EQ(batch_all({-1, 0, 0, 0}, {1}), std::string("similarity must be a code from 0 to 2, got -1"));
  CHECK_EQ(batch_all({0, 3, 0, 0}, {1}), std::string("reduction must be a code from 0 to 2, got 3"));
  CHECK_EQ(batch_all({0, 0, 0}, {1}), std::string("batch_all_modes must hold 4 numbers, got 3"));
  CHECK_EQ(batch_all({0, 0, 0, 0}, {1, 1}), std::string("batch_all_numbers must hold 1 numbers, got 2"));
}
