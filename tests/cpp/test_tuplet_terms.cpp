// The tuplet loss of one anchor, and reductions of [B] terms with their gradients.

#include "core/losses/tuplet_terms.h"

#include "support/check.h"

using namespace hardmine;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

// -log(exp(s_ap / t) / (exp(s_ap / t) + sum of exp(s_an / t))), as in the paper.
TEST(tuplet_term_matches_paper) {
  for (const double t : {0.1, 1.0, 3.0}) {
    for (const double s_ap : {-0.9, 0.0, 0.7}) {
      const double s_an[] = {0.3, -0.4, 0.65};
      double negatives = 0, shifted = 0;
      for (const double s : s_an) negatives += std::exp(s / t), shifted += std::exp((s - 0.5) / t);
      const double positive = std::exp(s_ap / t);
      const TupletTerm term = tuplet_term(0.5, log_of_sum(shifted), s_ap, t);
      CHECK_NEAR(term.value, -std::log(positive / (positive + negatives)), 1e-13);
      CHECK_NEAR(term.slope, negatives / (positive + negatives), 1e-13);
      const double step = 1e-6;  // the slope is the derivative with respect to the logsumexp
      const double up = tuplet_term(0.5, log_of_sum(shifted) + step, s_ap, t).value;
      const double down = tuplet_term(0.5, log_of_sum(shifted) - step, s_ap, t).value;
      CHECK_NEAR(term.slope, (up - down) / (2 * step), 1e-8);
    }
  }
}

TEST(tuplet_term_large_similarities_keep_digits) {
  // Shift and positive differ by one temperature. s / t alone could not represent this difference.
  const TupletTerm term = tuplet_term(1e9 + 0.5, 0, 1e9, 0.5);
  CHECK_NEAR(term.value, std::log1p(std::exp(1.0)), 1e-12);
  CHECK_EQ(tuplet_term(1e9, 0, -1e9, 1e-3).value, 2e12);
  CHECK_EQ(tuplet_term(-1e9, 0, 1e9, 1e-3).value, 0);
}

TEST(tuplet_is_valid_with_positive_and_negative) {
  CHECK(is_valid_tuplet(1, 1e-30));
  CHECK(!is_valid_tuplet(0, 1));
  CHECK(!is_valid_tuplet(3, 0));
  CHECK_EQ(log_of_sum(0), -kInfinity);
  CHECK_EQ(log_of_sum(1), 0);
}

TEST(one_shift_suffices_for_cosine_above_minimum_temperature) {
  TupletRule rule;
  for (const double temperature : {0.0451, 0.1, 1.0, 100.0}) {
    rule.temperature = temperature;
    rule.similarity = Similarity::kCosine;
    CHECK(one_shift_suffices(rule));
    CHECK(std::exp(2 / temperature) <= 0x1p64);
    for (const Similarity unbounded : {Similarity::kDot, Similarity::kEuclidean}) {
      rule.similarity = unbounded;
      CHECK(!one_shift_suffices(rule));
    }
  }
  rule.similarity = Similarity::kCosine;
  rule.temperature = 0.045;
  CHECK(!one_shift_suffices(rule));
}

TEST(reduce_tuplets_matches_hand_worked_values) {
  const float value[] = {1, 0, 2, 4};
  const int64_t counts[] = {1, 0, 3, 1}, none[] = {0, 0, 0, 0};
  CHECK_EQ(reduce_tuplets(Reduction::kMean, value, counts, 4), 7.0F / 3);
  CHECK_EQ(reduce_tuplets(Reduction::kSum, value, counts, 4), 7);
  CHECK_EQ(reduce_tuplets(Reduction::kMean, value, none, 4), 0);
  const float gradient[] = {3, 5, 7, 9};
  CHECK(tuplet_gradients(Reduction::kMean, gradient, counts, 4) == std::vector<float>(4, 1));
  CHECK(tuplet_gradients(Reduction::kSum, gradient, counts, 4) == std::vector<float>(4, 3));
  CHECK(tuplet_gradients(Reduction::kNone, gradient, counts, 4) == std::vector<float>(gradient, gradient + 4));
  CHECK(tuplet_gradients(Reduction::kMean, gradient, none, 4) == std::vector<float>(4, 0));
}
