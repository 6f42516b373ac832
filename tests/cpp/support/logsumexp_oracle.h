// Log-sum-exps as double loops over all pairs, straight from their definition.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "core/losses/logsumexp.h"
#include "support/dense_gradient.h"
#include "support/names.h"
#include "support/selection_oracle.h"

namespace hardmine::test {

inline constexpr LogSumExpPairs kLogSumExpPairs[] = {LogSumExpPairs::kPositive, LogSumExpPairs::kNegative,
                                                     LogSumExpPairs::kAll};

template <class T>
struct LogSumExpProblem {
  LogSumExpRule rule;
  double temperature;
  Batch<T> anchors;
  const Batch<T>* refs;  // null: the anchors themselves
  std::vector<T> grad_log_sum, grad_column, grad_positive;
  std::vector<T> bound;  // empty: none

  // refs_or_none < 0: none.
  LogSumExpProblem(const LogSumExpRule& of, double t, const Batch<T>& batch, const Batch<T>* others, Random& random)
      : rule(of), temperature(t), anchors(batch), refs(others) {
    if (!refs) rule.of_columns = false;
    for (int64_t i = 0; i < anchors.count; ++i) {
      grad_log_sum.push_back(number(random));
      grad_positive.push_back(rule.positives ? number(random) : T(0));
    }
    for (int64_t j = 0; rule.of_columns && j < refs->count; ++j) grad_column.push_back(number(random));
  }
  void give_bounds(double largest, Random& random) {
    for (int64_t i = 0; i < anchors.count; ++i)
      bound.push_back(random.below(6)   ? T(largest * (2 * random.unit() - 1))
                      : random.below(2) ? T(kInfinity)
                                        : T(-9e9));
  }

  const Batch<T>& others() const { return refs ? *refs : anchors; }
  std::string text() const {
    std::ostringstream out;
    out << anchors.count << " rows, " << (refs ? refs->count : -1) << " refs, depth " << anchors.depth << ", "
        << name_of(rule.similarity) << ", pairs " << static_cast<int>(rule.pairs) << ", temperature " << temperature
        << text_of({{"of columns", rule.of_columns}, {"positives", rule.positives}}) << ", logit "
        << static_cast<int>(rule.logit) << (bound.empty() ? "" : ", bounds");
    return out.str();
  }

 private:
  static T number(Random& random) { return random.below(8) ? T(2 * random.unit() - 1) : T(0); }
};

// The outputs of an engine. They start as garbage, because everything must be written.
template <class T>
struct LogSumExpArrays {
  std::vector<T> log_sum, column_log_sum, positive_similarity;
  std::vector<T> shift, sum, mean_offset, column_shift, column_sum, column_mean_offset;
  std::vector<int64_t> positive_count;
  bool of_columns, positives;

  explicit LogSumExpArrays(const LogSumExpProblem<T>& p) : of_columns(p.rule.of_columns), positives(p.rule.positives) {
    for (std::vector<T>* numbers : {&log_sum, &positive_similarity, &shift, &sum, &mean_offset})
      numbers->assign(p.anchors.count, T(77));
    for (std::vector<T>* numbers : {&column_log_sum, &column_shift, &column_sum, &column_mean_offset})
      numbers->assign(of_columns ? p.refs->count : 0, T(77));
    positive_count.assign(p.anchors.count, 77);
  }

  LogSumExpOut<T> out() {
    LogSumExpOut<T> to{};
    to.rows = {.shift = shift.data(), .sum = sum.data(), .mean_offset = mean_offset.data()};
    to.log_sum = log_sum.data();
    if (of_columns) {
      to.columns = {.shift = column_shift.data(), .sum = column_sum.data(), .mean_offset = column_mean_offset.data()};
      to.column_log_sum = column_log_sum.data();
    }
    to.positive_similarity = positives ? positive_similarity.data() : nullptr;
    to.positive_count = positives ? positive_count.data() : nullptr;
    return to;
  }
  LogSumExpSaved<T> saved(const LogSumExpProblem<T>& p) const {
    LogSumExpSaved<T> from{};
    from.bound = p.bound.empty() ? nullptr : p.bound.data();
    from.rows = {.gradient = p.grad_log_sum.data(), .shift = shift.data(), .sum = sum.data()};
    if (of_columns)
      from.columns = {.gradient = p.grad_column.data(), .shift = column_shift.data(), .sum = column_sum.data()};
    if (positives) {
      from.grad_positive = p.grad_positive.data();
      from.positive_count = positive_count.data();
    }
    return from;
  }
  bool same(const LogSumExpArrays& other) const {
    return same_bits(log_sum, other.log_sum) && same_bits(column_log_sum, other.column_log_sum) &&
           same_bits(shift, other.shift) && same_bits(sum, other.sum) && same_bits(mean_offset, other.mean_offset) &&
           same_bits(column_shift, other.column_shift) && same_bits(column_sum, other.column_sum) &&
           same_bits(column_mean_offset, other.column_mean_offset) &&
           same_bits(positive_similarity, other.positive_similarity) && positive_count == other.positive_count;
  }
};

struct LogSumExpCoverage {
  int64_t anchors = 0, found = 0, with_positives = 0;
};

// Compares a result of any engine with the definition. `weight_rounding` and `min_weight` bound the relative and the
// absolute error of the derivatives with respect to similarities.
template <class T>
void check_logsumexps(const LogSumExpProblem<T>& p, const LogSumExpArrays<T>& run, const std::vector<T>& grad_x,
                      const std::vector<T>& grad_refs, LogSumExpCoverage& coverage, double weight_rounding = 0,
                      double min_weight = 0) {
  const PairMeasure measure = measure_of(p.rule.similarity);
  const MeasuredSide<T> rows(measure, p.anchors), columns(measure, p.others());
  const std::vector<double> s = measure_matrix(measure, rows, columns);
  const int64_t count = rows.count, others = columns.count;
  const double t = p.temperature, epsilon = std::numeric_limits<T>::epsilon();
  double largest = 1;  // |a| |b| bounds an inner product and its partial sums
  for (const MeasuredSide<T>* side : {&rows, &columns})
    for (int64_t i = 0; i < side->count; ++i) {
      double squares = 0;
      for (int64_t k = 0; k < side->depth; ++k) squares += side->row(i)[k] * side->row(i)[k];
      largest = std::fmax(largest, p.rule.similarity == Similarity::kEuclidean ? 2 * std::sqrt(squares) : squares);
    }
  for (size_t k = 0; k < s.size() && is_hyperbolic(measure); ++k) largest = std::fmax(largest, -s[k]);
  // The logits and their derivatives by the similarities.
  std::vector<double> x = s, slope(s.size(), 1.0);
  const double m = p.rule.margin;
  for (size_t k = 0; k < s.size() && p.rule.logit != LogitKind::kSimilarity; ++k) {
    if (p.rule.logit == LogitKind::kDissimilarity) {
      x[k] = -s[k];
      slope[k] = -1;
    } else if (p.rule.pairs == LogSumExpPairs::kPositive) {
      x[k] = -std::fmax(0.0, 1 + m - s[k]) * (s[k] - (1 - m));
      slope[k] = -std::fmax(0.0, 1 + m - s[k]);
    } else {
      x[k] = std::fmax(0.0, s[k] + m) * (s[k] - m);
      slope[k] = std::fmax(0.0, s[k] + m);
    }
  }
  const bool negated = p.rule.logit == LogitKind::kDissimilarity ||
                       (p.rule.logit == LogitKind::kCircle && p.rule.pairs == LogSumExpPairs::kPositive);
  const double steepest = p.rule.logit == LogitKind::kCircle ? 4 * (largest + 1) : 1;  // of x in s
  const double s_error = 4 * epsilon * largest * steepest, x_error = 4 * (s_error / t + 90 * epsilon);
  std::vector<double> weight(count * others, 0.0), error(count * others, 0.0);
  // One anchor, whose pair k is at place(k) of the matrix.
  const auto check_anchor = [&](int64_t pairs, double bound, const auto& place, const auto& is_same,
                                const auto& is_pair, T gradient, T shift, T sum, T mean_offset, T log_sum) {
    double best = -kInfinity, total = 0, offset = 0;
    const auto counts = [&](int64_t k) {
      return (negated ? -s[place(k)] : s[place(k)]) > bound && is_pair(k) &&
             (is_same(k) ? p.rule.pairs != LogSumExpPairs::kNegative : p.rule.pairs != LogSumExpPairs::kPositive);
    };
    for (int64_t k = 0; k < pairs; ++k)
      if (counts(k)) best = std::fmax(best, x[place(k)]);
    for (int64_t k = 0; k < pairs; ++k) {
      if (!counts(k)) continue;
      const double e = std::exp((x[place(k)] - best) / t);
      total += e;
      offset += e * (x[place(k)] - best);
    }
    ++coverage.anchors;
    if (total == 0) {
      CHECK_EQ(log_sum, T(-kInfinity));
      CHECK_EQ(sum, T(0));
      CHECK_EQ(shift, T(0));
      CHECK_EQ(mean_offset, T(0));
      return;
    }
    ++coverage.found;
    const double want = best / t + std::log(total), got = double(shift) / t + double(log_sum);
    CHECK_NEAR(got, want, x_error + 4 * epsilon * std::fabs(want));
    CHECK_NEAR(shift, best, s_error);
    CHECK_NEAR(std::log(double(sum)), double(log_sum), 4 * epsilon * (1 + std::fabs(std::log(total))));
    CHECK_NEAR(double(shift) + double(mean_offset), best + offset / total, 4 * x_error * largest);
    for (int64_t k = 0; k < pairs; ++k) {
      if (!counts(k)) continue;
      const double by_x = double(gradient) * std::exp((x[place(k)] - best) / t) / (total * t);
      const double w = by_x * slope[place(k)];
      weight[place(k)] += w;
      error[place(k)] += std::fabs(w) * (4 * x_error + weight_rounding) + std::fabs(by_x) * s_error +
                         1e-18 * std::fabs(double(gradient)) / t + min_weight;
    }
  };
  for (int64_t i = 0; i < count; ++i) {
    const auto is_same = [&](int64_t j) { return p.anchors.label[i] == p.others().label[j]; };
    const auto is_pair = [&](int64_t j) { return p.refs || i != j; };
    check_anchor(
        others, p.bound.empty() ? -kInfinity : double(p.bound[i]), [&](int64_t j) { return i * others + j; }, is_same,
        is_pair, p.grad_log_sum[i], run.shift[i], run.sum[i], run.mean_offset[i], run.log_sum[i]);
    if (!p.rule.positives) continue;
    double total = 0;
    int64_t positives = 0;
    for (int64_t j = 0; j < others; ++j)
      if (is_same(j) && is_pair(j)) total += s[i * others + j], ++positives;
    CHECK_EQ(run.positive_count[i], positives);
    CHECK_NEAR(run.positive_similarity[i], positives ? total / double(positives) : 0.0, 4 * s_error);
    coverage.with_positives += positives > 0;
    for (int64_t j = 0; j < others; ++j) {
      if (!is_same(j) || !is_pair(j)) continue;
      const double w = double(p.grad_positive[i]) / double(positives);
      weight[i * others + j] += w;
      error[i * others + j] += std::fabs(w) * (4 * epsilon + weight_rounding) + min_weight;
    }
  }
  for (int64_t j = 0; p.rule.of_columns && j < others; ++j)
    check_anchor(
        count, -kInfinity, [&](int64_t i) { return i * others + j; },
        [&](int64_t i) { return p.anchors.label[i] == p.refs->label[j]; }, [](int64_t) { return true; },
        p.grad_column[j], run.column_shift[j], run.column_sum[j], run.column_mean_offset[j], run.column_log_sum[j]);
  if (!grad_x.empty() || !grad_refs.empty())
    DenseGradient<T>(measure, rows, p.refs ? &columns : nullptr, weight, error).check(grad_x, grad_refs);
}

}  // namespace hardmine::test
