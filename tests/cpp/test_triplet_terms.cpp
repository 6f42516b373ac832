#include "core/losses/triplet_terms.h"

#include <vector>

#include "support/check.h"

using namespace hardmine;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

TermRule rule_of(Term term, HardRule hard_rule = HardRule::kAbove, double cutoff = 0) {
  TermRule rule;
  rule.term = term;
  rule.hard_rule = hard_rule;
  rule.hard_cutoff = cutoff;
  return rule;
}
const TermRule kRatio = rule_of(Term::kRatio), kNca = rule_of(Term::kNca), kHinge = rule_of(Term::kHinge),
               kSoftMargin = rule_of(Term::kSoftMargin);
const TermRule kPaper = rule_of(Term::kSct), kCode2020 = rule_of(Term::kSct, HardRule::kAboveAndCutoff, 0.5),
               kCode2021 = rule_of(Term::kSct, HardRule::kAboveOrCutoff, 0.8);

template <class T>
void check_term(const TermRule& rule, double positive, double negative, double value, double d_positive,
                double d_negative, Difficulty part) {
  const TripletTerm<T> term = triplet_term(rule, T(positive), T(negative));
  const double tolerance = sizeof(T) == 4 ? 4e-6 : 1e-14;
  CHECK_NEAR(term.value, value, tolerance * std::fmax(1, std::fabs(value)));
  CHECK_NEAR(term.d_positive, d_positive, tolerance * std::fmax(1, std::fabs(d_positive)));
  CHECK_NEAR(term.d_negative, d_negative, tolerance * std::fmax(1, std::fabs(d_negative)));
  CHECK(term.difficulty == part);
}

}  // namespace

TYPED_TEST(triplet_term_matches_hand_worked_values, T) {
  const Difficulty easy = Difficulty::kEasy, hard = Difficulty::kHard;
  // ln(1 + e^x) and its slope 1 / (1 + e^-x), both divided by tau = 0.1, for x = 10 (s_an - s_ap).
  const double softplus_m1 = 0.31326168751822286, sigmoid_m1 = 0.2689414213699951;
  const double softplus_3 = 3.0485873515737421, sigmoid_3 = 0.95257412682243322;
  check_term<T>(kNca, 0.75, 0.65, softplus_m1, -10 * sigmoid_m1, 10 * sigmoid_m1, easy);
  check_term<T>(kNca, 0.25, 0.55, softplus_3, -10 * sigmoid_3, 10 * sigmoid_3, easy);
  check_term<T>(kNca, 0.5, 0.5, kLn2, -5, 5, easy);
  // The soft margin has temperature 1.
  check_term<T>(kSoftMargin, 2, 1, softplus_m1, -sigmoid_m1, sigmoid_m1, easy);
  check_term<T>(kSoftMargin, -1, 2, softplus_3, -sigmoid_3, sigmoid_3, easy);
  // Hinge with margin 0.2. At the kink the subgradient is 0.
  check_term<T>(kHinge, 0.9, 0.8, 0.1, -1, 1, easy);
  check_term<T>(kHinge, 0.9, 0.5, 0, 0, 0, easy);
  TermRule kink = kHinge;
  kink.margin = 0.25;
  check_term<T>(kink, 0.75, 0.5, 0, 0, 0, easy);
  // Ratio with margin 0.25, of distances d = -s. 1 - 0.5 / (0.75 + 0.25) has slopes 0.5 / 1 and 1 / 1; 1 - 1 / (1.75 +
  // 0.25) has slopes 1 / 4 and 1 / 2. At the kink and beyond it the subgradient is 0.
  TermRule ratio = kRatio;
  ratio.margin = 0.25;
  check_term<T>(ratio, -0.75, -0.5, 0.5, -0.5, 1, easy);
  check_term<T>(ratio, -1.75, -1, 0.5, -0.25, 0.5, easy);
  check_term<T>(ratio, 0, 0, 1, 0, 4, easy);
  check_term<T>(ratio, -0.75, -1, 0, 0, 0, easy);
  check_term<T>(ratio, -0.25, -1, 0, 0, 0, easy);
  // SCT as in the paper: above the diagonal the value is lam s_an, and no gradient reaches the positive pair.
  TermRule tenth = kPaper;
  tenth.lam = 0.1;
  check_term<T>(kPaper, 0.25, 0.75, 0.75, 0, 1, hard);
  check_term<T>(tenth, 0.25, 0.75, 0.075, 0, 0.1, hard);
  check_term<T>(kPaper, -0.5, -0.25, -0.25, 0, 1, hard);
  check_term<T>(kPaper, 0.75, 0.65, softplus_m1, -10 * sigmoid_m1, 10 * sigmoid_m1, easy);
  check_term<T>(kPaper, 0.5, 0.5, kLn2, -5, 5, easy);
  // The code of 2020: hard only if s_an also exceeds the cutoff 0.5. Every other triplet is easy.
  check_term<T>(kCode2020, 0.25, 0.75, 0.75, 0, 1, hard);
  check_term<T>(kCode2020, 0.125, 0.425, softplus_3, -10 * sigmoid_3, 10 * sigmoid_3, easy);
  check_term<T>(kCode2020, 0.5, 0.5, kLn2, -5, 5, easy);
  check_term<T>(kCode2020, 0.75, 0.75, kLn2, -5, 5, easy);
  check_term<T>(kCode2020, 0.2, 0.5, softplus_3, -10 * sigmoid_3, 10 * sigmoid_3, easy);  // at the cutoff
  // The code of 2021: also hard if s_an exceeds the cutoff 0.8. A tie is neither easy nor hard.
  check_term<T>(kCode2021, 0.25, 0.375, 0.375, 0, 1, hard);
  check_term<T>(kCode2021, 0.95, 0.9, 0.9, 0, 1, hard);
  check_term<T>(kCode2021, 0.75, 0.65, softplus_m1, -10 * sigmoid_m1, 10 * sigmoid_m1, easy);
  check_term<T>(kCode2021, 0.5, 0.5, 0, 0, 0, Difficulty::kNone);
  check_term<T>(kCode2021, 0.95, 0.8, 0, 0, 0, Difficulty::kNone);  // at the cutoff
  check_term<T>(kCode2021, 0.9, 0.9, 0.9, 0, 1, hard);              // a tie above the cutoff
}

TEST(triplet_term_derivatives_match_finite_differences) {
  const double step = 1e-6;
  int64_t hard = 0, easy = 0;
  std::vector<TermRule> rules = {kNca, kHinge, kSoftMargin, kPaper, kCode2020, kCode2021};
  rules[3].lam = 0.3;
  rules[0].temperature = 0.7;
  for (const TermRule& rule : rules) {
    // No point of the grid is within a step of a kink: s_an = s_ap, s_an = cutoff, s_an = s_ap - margin.
    for (double positive = -0.97; positive < 1; positive += 0.1) {
      for (double negative = -0.93; negative < 1; negative += 0.1) {
        const TripletTerm<double> term = triplet_term(rule, positive, negative);
        const auto value = [&](double p, double n) { return triplet_term(rule, p, n).value; };
        const double tolerance = 1e-8 * std::fmax(1, std::fabs(term.d_negative)) / rule.temperature;
        CHECK_NEAR(term.d_positive, (value(positive + step, negative) - value(positive - step, negative)) / (2 * step),
                   tolerance);
        CHECK_NEAR(term.d_negative, (value(positive, negative + step) - value(positive, negative - step)) / (2 * step),
                   tolerance);
        hard += term.difficulty == Difficulty::kHard;
        easy += term.difficulty == Difficulty::kEasy;
      }
    }
  }
  CHECK(hard > 100);
  CHECK(easy > 100);
}

TEST(ratio_term_derivatives_match_finite_differences) {
  const double step = 1e-6;
  int64_t active = 0, flat = 0;
  for (double positive = -1.97; positive < 0; positive += 0.1) {
    for (double negative = -1.93; negative < 0; negative += 0.1) {
      if (std::fabs(positive - negative - kRatio.margin) < 1e-3) continue;  // the kink
      const TripletTerm<double> term = triplet_term(kRatio, positive, negative);
      const auto value = [&](double p, double n) { return triplet_term(kRatio, p, n).value; };
      CHECK_NEAR(term.d_positive, (value(positive + step, negative) - value(positive - step, negative)) / (2 * step),
                 1e-8);
      CHECK_NEAR(term.d_negative, (value(positive, negative + step) - value(positive, negative - step)) / (2 * step),
                 1e-8);
      CHECK(term.value >= 0 && term.value < 1);
      active += term.value > 0;
      flat += term.value == 0;
    }
  }
  CHECK(active > 100);
  CHECK(flat > 100);
}

TYPED_TEST(triplet_term_extreme_inputs_stay_finite, T) {
  for (const TermRule& rule : {kNca, kHinge, kSoftMargin, kPaper, kCode2020, kCode2021}) {
    for (const T positive : {T(-1e4), T(-100), T(0), T(100), T(1e4)}) {
      for (const T negative : {T(-1e4), T(-100), T(0), T(100), T(1e4)}) {
        const TripletTerm<T> term = triplet_term(rule, positive, negative);
        CHECK(std::isfinite(term.value) && std::isfinite(term.d_positive) && std::isfinite(term.d_negative));
        CHECK(term.d_negative >= T(0) && term.d_positive <= T(0));
        CHECK(std::fabs(term.d_negative) <= T(1 / rule.temperature) * T(1.000001));
      }
    }
  }
  // Far from the diagonal, softplus is linear or 0.
  CHECK_NEAR(triplet_term(kNca, T(-1e4), T(1e4)).value, 2e5, 0.1);
  CHECK_NEAR(triplet_term(kNca, T(-1e4), T(1e4)).d_negative, 10, 1e-5);
  CHECK_EQ(triplet_term(kNca, T(1e4), T(-1e4)).value, T(0));
  CHECK_EQ(triplet_term(kNca, T(1e4), T(-1e4)).d_negative, T(0));
  // Small values keep their relative precision: e^-40 is far below the rounding error of 1.
  CHECK_NEAR(softplus(T(-40)) / std::exp(T(-40)), 1, 1e-6);
  CHECK_NEAR(sigmoid(T(-40)) / std::exp(T(-40)), 1, 1e-6);
}

TEST(triplet_term_nan_similarities_give_nan) {
  // A NaN similarity gives a NaN loss, except where a rule excludes the anchor.
  for (const TermRule& rule : {kNca, kSoftMargin, kPaper, kHinge, kRatio}) {
    CHECK(std::isnan(triplet_term(rule, std::nan(""), 0.5).value));
    CHECK(std::isnan(triplet_term(rule, 0.5, std::nan("")).value));
  }
}

TEST(triplet_term_below_min_similarity_is_excluded) {
  TermRule rule = kNca;
  rule.min_similarity = 0;
  CHECK(triplet_term(rule, 0.5, 0.25).difficulty == Difficulty::kEasy);
  CHECK(triplet_term(rule, 0.5, 0.0).difficulty == Difficulty::kNone);
  CHECK(triplet_term(rule, 0.0, 0.5).difficulty == Difficulty::kNone);
  CHECK(triplet_term(rule, -0.5, 0.5).difficulty == Difficulty::kNone);
  CHECK(triplet_term(rule, 0.5, -0.5).difficulty == Difficulty::kNone);
  CHECK_EQ(triplet_term(rule, 0.5, -0.5).value, 0);
  CHECK_EQ(triplet_term(rule, 0.5, -0.5).d_negative, 0);
  rule.min_similarity = -kInf;
  CHECK(triplet_term(rule, -0.5, -0.5).difficulty == Difficulty::kEasy);
}
