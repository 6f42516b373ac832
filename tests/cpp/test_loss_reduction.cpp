#include "core/losses/loss_reduction.h"

#include <vector>

#include "support/check.h"

using namespace hardmine;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
struct Pairs {
  std::vector<int64_t> positive_index, negative_index;
  std::vector<T> positive, negative;

  void add(int64_t p_index, int64_t n_index, double s_ap, double s_an) {
    positive_index.push_back(p_index);
    negative_index.push_back(n_index);
    positive.push_back(T(s_ap));
    negative.push_back(T(s_an));
  }
  SelectedPairs<T> view() const {
    return {positive_index.data(), negative_index.data(), positive.data(), negative.data(),
            static_cast<int64_t>(positive.size())};
  }
};

// Three hard anchors; two easy ones, one of them a tie; two anchors that lack a partner.
template <class T>
Pairs<T> mixed_pairs() {
  Pairs<T> pairs;
  pairs.add(1, 2, 0.25, 0.75);
  pairs.add(0, 2, 0.5, 0.5);
  pairs.add(-1, 3, kNan, 0.5);
  pairs.add(4, 3, 0.125, 0.5);
  pairs.add(3, -1, 0.5, kNan);
  pairs.add(6, 3, -0.5, 0.25);
  pairs.add(5, 3, 0.75, 0.5);
  return pairs;
}

TermRule sct(bool separate_means = false, double lam = 0.5) {
  TermRule rule;
  rule.term = Term::kSct;
  rule.lam = lam;
  rule.separate_means = separate_means;
  return rule;
}

template <class T>
double loss_of(const TermRule& rule, Reduction reduction, const Pairs<T>& pairs) {
  T loss = T(-1);
  reduce_loss(rule, reduction, pairs.view(), &loss);
  return static_cast<double>(loss);
}

const double kEasy1 = std::log(2.0), kEasy2 = std::log1p(std::exp(-2.5));  // the two easy anchors, tau = 0.1

}  // namespace

TYPED_TEST(reduce_loss_matches_hand_worked_values, T) {
  const Pairs<T> pairs = mixed_pairs<T>();
  const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-14;
  const double easy = kEasy1 + kEasy2, hard = 0.5 * (0.75 + 0.5 + 0.25);
  CHECK_NEAR(loss_of(sct(), Reduction::kSum, pairs), easy + hard, tolerance);
  CHECK_NEAR(loss_of(sct(), Reduction::kMean, pairs), (easy + hard) / 5, tolerance);
  CHECK_NEAR(loss_of(sct(true), Reduction::kMean, pairs), easy / 2 + hard / 3, tolerance);
  CHECK_NEAR(loss_of(sct(true), Reduction::kSum, pairs), easy + hard, tolerance);
  std::vector<T> each(7, T(-1));
  reduce_loss(sct(), Reduction::kNone, pairs.view(), each.data());
  const double want[] = {0.375, kEasy1, 0, 0.25, 0, 0.125, kEasy2};
  for (int64_t i = 0; i < 7; ++i) CHECK_NEAR(each[i], want[i], tolerance);
}

// Of mixed_pairs, the hinges with margin 0 are 0.5, 0 (a tie), 0.375, 0.75 and 0 (below it).
TYPED_TEST(reduce_loss_only_active_terms_count, T) {
  TermRule rule;
  rule.term = Term::kHinge;
  rule.margin = 0;
  CHECK_EQ(loss_of(rule, Reduction::kMean, mixed_pairs<T>()), double(T(1.625 / 5)));
  rule.only_active = true;
  CHECK_EQ(loss_of(rule, Reduction::kMean, mixed_pairs<T>()), double(T(1.625 / 3)));
  rule.margin = -1;
  CHECK_EQ(loss_of(rule, Reduction::kMean, mixed_pairs<T>()), 0);
  TermRule negative = sct(false, -0.5);  // only the two easy terms are above 0
  negative.only_active = true;
  CHECK_NEAR(loss_of(negative, Reduction::kMean, mixed_pairs<T>()), (kEasy1 + kEasy2) / 2, 1e-6);
}

TEST(reduce_loss_excluded_ties_are_not_in_mean) {
  TermRule rule = sct();
  rule.hard_rule = HardRule::kAboveOrCutoff;
  rule.hard_cutoff = 0.8;
  const Pairs<double> pairs = mixed_pairs<double>();  // its tie (0.5, 0.5) is excluded
  CHECK_NEAR(loss_of(rule, Reduction::kMean, pairs), (kEasy2 + 0.75) / 4, 1e-14);
}

TEST(reduce_loss_empty_part_adds_nothing_to_separate_means) {
  Pairs<double> easy, hard;
  easy.add(0, 1, 0.75, 0.5);
  easy.add(0, 1, 0.5, 0.5);
  hard.add(0, 1, 0.25, 0.5);
  CHECK_NEAR(loss_of(sct(true), Reduction::kMean, easy), (kEasy1 + kEasy2) / 2, 1e-14);
  CHECK_NEAR(loss_of(sct(true), Reduction::kMean, hard), 0.25, 1e-14);
}

TEST(reduce_loss_no_valid_anchor_gives_zero) {
  Pairs<double> empty, none;
  none.add(-1, 2, kNan, 0.5);
  none.add(1, -1, 0.5, kNan);
  none.add(-1, -1, kNan, kNan);
  for (const Pairs<double>& pairs : {empty, none}) {
    for (const bool separate_means : {false, true}) {
      CHECK_EQ(loss_of(sct(separate_means), Reduction::kMean, pairs), 0);
      CHECK_EQ(loss_of(sct(separate_means), Reduction::kSum, pairs), 0);
      const double grad_loss = 3;
      std::vector<double> d_positive(3, -1), d_negative(3, -1);
      reduce_loss_backward(sct(separate_means), Reduction::kMean, pairs.view(), &grad_loss, d_positive.data(),
                           d_negative.data());
      for (int64_t i = 0; i < pairs.view().count; ++i) {
        CHECK_EQ(d_positive[i], 0);
        CHECK_EQ(d_negative[i], 0);
      }
    }
  }
}

TEST(reduce_loss_excluded_anchors_pass_no_gradient) {
  const Pairs<double> pairs = mixed_pairs<double>();
  std::vector<double> grad(7, 2), d_positive(7), d_negative(7);
  grad[2] = grad[4] = kNan;
  reduce_loss_backward(sct(), Reduction::kNone, pairs.view(), grad.data(), d_positive.data(), d_negative.data());
  for (const int64_t i : {2, 4}) {
    CHECK_EQ(d_positive[i], 0);
    CHECK_EQ(d_negative[i], 0);
  }
}

TEST(reduce_loss_gradient_matches_finite_differences) {
  const double step = 1e-6;
  Pairs<double> pairs = mixed_pairs<double>();
  pairs.negative[1] = 0.4375;  // off the tie, where eq. 13 jumps
  const std::vector<double> grad_each = {1, -2, 3, 0.5, 5, 0, 7};
  int64_t non_zero = 0;
  for (const bool separate_means : {false, true}) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
      const TermRule rule = sct(separate_means);
      const std::vector<double> grad = reduction == Reduction::kNone ? grad_each : std::vector<double>{2.5};
      const auto scalar = [&](const Pairs<double>& at) {
        std::vector<double> loss(grad.size());
        reduce_loss(rule, reduction, at.view(), loss.data());
        double sum = 0;
        for (size_t i = 0; i < grad.size(); ++i) sum += grad[i] * loss[i];
        return sum;
      };
      std::vector<double> d_positive(7, kNan), d_negative(7, kNan);
      reduce_loss_backward(rule, reduction, pairs.view(), grad.data(), d_positive.data(), d_negative.data());
      for (size_t i = 0; i < 7; ++i) {
        for (const bool of_positive : {false, true}) {
          Pairs<double> up = pairs, down = pairs;
          (of_positive ? up.positive : up.negative)[i] += step;
          (of_positive ? down.positive : down.negative)[i] -= step;
          const double got = (of_positive ? d_positive : d_negative)[i];
          CHECK_NEAR(got, (scalar(up) - scalar(down)) / (2 * step), 1e-7);
          non_zero += got != 0;
        }
      }
    }
  }
  CHECK(non_zero >= 30);
}

TEST(reduce_loss_without_indices_uses_every_pair) {
  Pairs<double> pairs = mixed_pairs<double>(), complete;
  for (const size_t i : {0, 1, 3, 5, 6}) complete.add(0, 0, pairs.positive[i], pairs.negative[i]);
  const SelectedPairs<double> listed{nullptr, nullptr, complete.positive.data(), complete.negative.data(), 5};
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    double loss = -1, want = -1;
    reduce_loss(sct(), reduction, listed, &loss);
    reduce_loss(sct(), reduction, pairs.view(), &want);
    CHECK_EQ(loss, want);
    CHECK(loss > 0);
    const double one = 1;
    std::vector<double> d_positive(5), d_negative(5), want_positive(7), want_negative(7);
    reduce_loss_backward(sct(), reduction, listed, &one, d_positive.data(), d_negative.data());
    reduce_loss_backward(sct(), reduction, pairs.view(), &one, want_positive.data(), want_negative.data());
    for (size_t at = 0; const size_t i : {0, 1, 3, 5, 6}) {
      CHECK_EQ(d_positive[at], want_positive[i]);
      CHECK_EQ(d_negative[at++], want_negative[i]);
    }
  }
}
