#include "core/losses/global_loss.h"

#include <vector>

#include "support/check.h"

using namespace hardmine;

namespace {

const std::vector<double> kPositive = {0.25, 0.75, 0.5, 0.5};  // mean 0.5, variance (2 * 0.0625) / 4 = 0.03125
const std::vector<double> kNegative = {0, 0.5, 0.25, 0.25};    // mean 0.25, variance 0.03125

GlobalRule rule_of(double lam, double threshold) {
  GlobalRule rule;
  rule.lam = lam;
  rule.threshold = threshold;
  return rule;
}

template <class T>
std::vector<T> as(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

template <class T>
double loss_of(const GlobalRule& rule, const std::vector<double>& positive, const std::vector<double>& negative) {
  const std::vector<T> p = as<T>(positive), n = as<T>(negative);
  return static_cast<double>(global_loss(rule, p.data(), n.data(), static_cast<int64_t>(p.size())));
}

struct Slopes {
  std::vector<double> positive, negative;
};
Slopes slopes_of(const GlobalRule& rule, const std::vector<double>& p, const std::vector<double>& n, double grad = 1) {
  Slopes slopes{std::vector<double>(p.size(), -7), std::vector<double>(n.size(), -7)};
  global_loss_backward(rule, p.data(), n.data(), static_cast<int64_t>(p.size()), grad, slopes.positive.data(),
                       slopes.negative.data());
  return slopes;
}

}  // namespace

TYPED_TEST(global_loss_matches_hand_worked_values, T) {
  // The variances sum to 0.0625. The rest is lam (0.5 - 0.25 + t).
  CHECK_EQ(loss_of<T>(rule_of(0.5, 0.25), kPositive, kNegative), 0.0625 + 0.5 * 0.5);
  CHECK_EQ(loss_of<T>(rule_of(0, 0.25), kPositive, kNegative), 0.0625);
  CHECK_EQ(loss_of<T>(rule_of(0.5, 0.25), kNegative, kPositive), 0.0625);  // the kink: a gap of 0
  CHECK_EQ(loss_of<T>(rule_of(0.5, 0.125), kNegative, kPositive), 0.0625);
  CHECK_EQ(loss_of<T>(rule_of(2, 0), {0.75}, {0.25}), 1);  // one triplet has no variance
  CHECK_EQ(loss_of<T>(rule_of(2, 1), {}, {}), 0);
}

TEST(global_loss_gradient_matches_hand_worked_values) {
  // 2 (d - mu) / 4 +- lam / 4, lam = 0.5.
  const Slopes active = slopes_of(rule_of(0.5, 0.25), kPositive, kNegative);
  const std::vector<double> want_positive = {0, 0.25, 0.125, 0.125}, want_negative = {-0.25, 0, -0.125, -0.125};
  const Slopes twice = slopes_of(rule_of(0.5, 0.25), kPositive, kNegative, 2);
  // At the kink only the variances have a slope.
  const Slopes kink = slopes_of(rule_of(0.5, 0.25), kNegative, kPositive);
  const std::vector<double> at_kink = {-0.125, 0.125, 0, 0};
  for (size_t i = 0; i < 4; ++i) {
    CHECK_EQ(active.positive[i], want_positive[i]);
    CHECK_EQ(active.negative[i], want_negative[i]);
    CHECK_EQ(twice.positive[i], 2 * want_positive[i]);
    CHECK_EQ(twice.negative[i], 2 * want_negative[i]);
    CHECK_EQ(kink.positive[i], at_kink[i]);
    CHECK_EQ(kink.negative[i], at_kink[i]);
  }
}

TEST(global_loss_gradient_matches_finite_differences) {
  const double step = 1e-6;
  const std::vector<double> p = {0.31, 0.12, 0.95, 0.4, 0.77}, n = {0.2, 0.61, 0.05, 0.33, 0.5};
  for (const GlobalRule& rule : {rule_of(0.8, 0.01), rule_of(0.8, -0.5)}) {
    const Slopes slopes = slopes_of(rule, p, n);
    for (size_t i = 0; i < p.size(); ++i) {
      const auto moved = [&](double by_p, double by_n) {
        std::vector<double> to_p = p, to_n = n;
        to_p[i] += by_p;
        to_n[i] += by_n;
        return loss_of<double>(rule, to_p, to_n);
      };
      CHECK_NEAR(slopes.positive[i], (moved(step, 0) - moved(-step, 0)) / (2 * step), 1e-9);
      CHECK_NEAR(slopes.negative[i], (moved(0, step) - moved(0, -step)) / (2 * step), 1e-9);
      CHECK(slopes.positive[i] != 0 && slopes.negative[i] != 0);
    }
  }
}

TEST(global_loss_close_distances_keep_variance_digits) {
  // Deviations are 2^-20. |d|^2 - mu^2 would lose all their digits in float, and half of them in double.
  const double deviation = 0x1p-20;
  const double loss = loss_of<float>(rule_of(0, 0), {0.5 - deviation, 0.5 + deviation}, {0.25, 0.25});
  CHECK_NEAR(loss / (deviation * deviation), 1, 1e-6);
}

TEST(global_loss_nan_distances_give_nan) {
  CHECK(std::isnan(loss_of<double>(rule_of(0.8, 0.01), {std::nan(""), 0.5}, {0.25, 0.25})));
  CHECK(std::isnan(loss_of<double>(rule_of(0.8, 0.01), {0.5, 0.5}, {INFINITY, 0.25})));
}

TEST(global_distance_is_a_quarter_of_squared_distance) {
  CHECK_EQ(global_distance(-4.0), 1.0);
  CHECK_EQ(global_distance_backward(1.0), -0.25);
}
