// Tuplet losses as double loops over all pairs, straight from their definition.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "cpu/engine/tuplet_loss.h"
#include "support/dense_gradient.h"
#include "support/names.h"
#include "support/selection_oracle.h"

namespace hardmine::test {

inline constexpr TupletPositive kPositives[] = {TupletPositive::kEasiest, TupletPositive::kHardest,
                                                TupletPositive::kAll};

// refs < 0: none.
inline std::string describe(const TupletRule& rule, int64_t rows, int64_t refs, int64_t depth) {
  std::ostringstream text;
  text << rows << " rows, " << refs << " refs, depth " << depth << ", " << name_of(rule.similarity) << ", positive "
       << name_of(rule.positive) << ", temperature " << rule.temperature << ", threshold " << rule.duplicate_threshold;
  return text.str();
}

template <class T>
struct TupletProblem {
  TupletRule rule;
  Batch<T> anchors;
  const Batch<T>* refs;     // null: the anchors themselves
  std::vector<T> gradient;  // with respect to each anchor's term

  const Batch<T>& others() const { return refs ? *refs : anchors; }
};

// The result of the engine. Outputs start as garbage, because everything must be written.
template <class T>
struct TupletRun {
  bool finite;
  std::vector<T> value, logsumexp, shift, sum, slope, positive_similarity;
  std::vector<int64_t> positive_index, positive_count;
  std::vector<T> grad_x, grad_refs;

  TupletRun(const TupletProblem<T>& p, const cpu::ThreadPool& pool, bool want_x = true, bool want_refs = true) {
    const size_t count = p.anchors.count;
    for (std::vector<T>* numbers : {&value, &logsumexp, &shift, &sum, &slope, &positive_similarity})
      numbers->assign(count, T(kNaN));
    positive_index.assign(count, 77);
    positive_count.assign(count, 77);
    const LabeledMatrix<T> refs = p.others().view();
    const LabeledMatrix<T>* others = p.refs ? &refs : nullptr;
    finite = cpu::tuplet_forward<T>(p.rule, p.anchors.view(), others, p.anchors.depth, pool,
                                    {value.data(), logsumexp.data(), shift.data(), sum.data(), slope.data(),
                                     positive_similarity.data(), positive_index.data(), positive_count.data()});
    if (want_x) grad_x.assign(p.anchors.x.size(), T(kNaN));
    if (want_refs && p.refs) grad_refs.assign(p.refs->x.size(), T(kNaN));
    const TupletSaved<T> saved{p.gradient.data(), shift.data(),          sum.data(),
                               slope.data(),      positive_index.data(), positive_count.data()};
    // A wanted gradient without elements is not null either.
    T nothing[1];
    const auto data = [&](std::vector<T>& grad, bool wanted) {
      return !wanted ? nullptr : grad.empty() ? nothing : grad.data();
    };
    const bool backward_finite =
        cpu::tuplet_backward<T>(p.rule, p.anchors.view(), others, p.anchors.depth, saved, {}, pool,
                                data(grad_x, want_x), data(grad_refs, want_refs && p.refs));
    CHECK_EQ(backward_finite, finite);
  }
};

struct TupletCoverage {
  int64_t anchors = 0, valid = 0, many_positives = 0, dropped = 0;
};

// Compares a result of any engine with the definition. `exact`: similarities are exact, so the selected positives must
// be too. `weight_rounding` and `min_weight` bound the relative and the absolute error of the derivatives with
// respect to similarities.
template <class T, class Run>
void check_tuplets(const TupletProblem<T>& p, const Run& run, bool exact, TupletCoverage& coverage,
                   double weight_rounding = 0, double min_weight = 0) {
  const PairMeasure measure = measure_of(p.rule.similarity);
  const MeasuredSide<T> rows(measure, p.anchors), columns(measure, p.others());
  const std::vector<double> s = measure_matrix(measure, rows, columns);
  const int64_t count = rows.count, others = columns.count;
  const double t = p.rule.temperature, epsilon = std::numeric_limits<T>::epsilon();

  // The error of a similarity. |a| |b| bounds an inner product and its partial sums.
  double largest = 1;
  const auto norm = [](const MeasuredSide<T>& side, int64_t i) {
    double squares = 0;
    for (int64_t k = 0; k < side.depth; ++k) squares += side.row(i)[k] * side.row(i)[k];
    return std::sqrt(squares);
  };
  double max_row_norm = 0, max_column_norm = 0;
  for (int64_t i = 0; i < count; ++i) max_row_norm = std::fmax(max_row_norm, norm(rows, i));
  for (int64_t j = 0; j < others; ++j) max_column_norm = std::fmax(max_column_norm, norm(columns, j));
  largest = std::fmax(largest, p.rule.similarity == Similarity::kEuclidean ? max_row_norm + max_column_norm
                                                                           : max_row_norm * max_column_norm);
  const bool no_error = exact && p.rule.similarity != Similarity::kEuclidean;  // square roots round
  const double s_error = no_error ? 0 : 4 * epsilon * largest;

  std::vector<double> weight(count * others, 0.0), weight_error(count * others, 0.0);
  for (int64_t i = 0; i < count; ++i) {
    const double* s_row = s.data() + i * others;
    const auto is_positive = [&](int64_t j) {
      return p.others().label[j] == p.anchors.label[i] && (p.refs || j != i) && s_row[j] <= p.rule.duplicate_threshold;
    };
    const auto is_negative = [&](int64_t j) { return p.others().label[j] != p.anchors.label[i]; };
    double max_negative = -kInfinity, sum = 0;
    std::vector<int64_t> positives;
    for (int64_t j = 0; j < others; ++j) {
      if (is_negative(j)) max_negative = std::fmax(max_negative, s_row[j]);
      if (is_positive(j)) positives.push_back(j);
      coverage.dropped += s_row[j] > p.rule.duplicate_threshold;
    }
    for (int64_t j = 0; j < others; ++j)
      if (is_negative(j)) sum += std::exp((s_row[j] - max_negative) / t);
    const double logsumexp = sum > 0 ? max_negative / t + std::log(sum) : -kInfinity;
    // Of logsumexp - s / t: what similarities are off by, and roundings of differences up to 90, where exponentials
    // end.
    const double x_error = 4 * (s_error / t + 90 * epsilon);
    if (sum > 0) {
      const double logsumexp_error = x_error + 4 * epsilon * std::fabs(logsumexp);
      CHECK_NEAR(run.logsumexp[i], logsumexp, logsumexp_error);
      CHECK_NEAR(run.shift[i] / t + std::log(double(run.sum[i])), logsumexp, logsumexp_error);
    } else {
      CHECK_EQ(run.logsumexp[i], T(-kInfinity));
      CHECK_EQ(run.sum[i], T(0));
    }

    const bool all = p.rule.positive == TupletPositive::kAll;
    const Chosen chosen =
        choose(s_row, others, p.rule.positive == TupletPositive::kHardest, [&](int64_t j) { return is_positive(j); });
    if (all || chosen.index < 0) {
      CHECK_EQ(run.positive_index[i], -1);
      CHECK_EQ(run.positive_similarity[i], T(0));
    } else if (exact) {
      CHECK_EQ(run.positive_index[i], chosen.index);
      CHECK_EQ(run.positive_similarity[i], T(chosen.similarity));
    } else {
      const int64_t index = run.positive_index[i];
      CHECK(index >= 0 && index < others && is_positive(index));
      if (!(index >= 0 && index < others)) continue;
      CHECK_NEAR(s_row[index], chosen.similarity, s_error);
      CHECK_NEAR(run.positive_similarity[i], s_row[index], s_error);
    }

    ++coverage.anchors;
    const bool valid = !positives.empty() && sum > 0;
    CHECK_EQ(run.positive_count[i], !valid ? 0 : all ? static_cast<int64_t>(positives.size()) : 1);
    if (!valid) {
      CHECK_EQ(run.value[i], T(0));
      CHECK_EQ(run.slope[i], T(0));
      continue;
    }
    ++coverage.valid;
    coverage.many_positives += positives.size() > 1;
    if (!all) positives = {run.positive_index[i]};
    // The mean over the positives of softplus(logsumexp - s / t).
    const double share = 1 / static_cast<double>(positives.size()), g = p.gradient[i];
    double value = 0, slope = 0;
    for (const int64_t j : positives) {
      const double x = (max_negative - s_row[j]) / t + std::log(sum), e = std::exp(-std::fabs(x)),
                   sigmoid = (x < 0 ? e : 1) / (1 + e);
      value += share * (std::fmax(x, 0) + std::log1p(e));
      slope += share * sigmoid;
      weight[i * others + j] -= g * share * sigmoid / t;
    }
    // A float's exponentials end at 2^-125.
    const double min_value = 1e-36;
    CHECK_NEAR(run.value[i], value, value * epsilon + std::fmin(2 * x_error, 1) * (value + 2 * x_error) + min_value);
    CHECK_NEAR(run.slope[i], slope, slope * 2 * x_error + min_value);
    for (int64_t j = 0; j < others; ++j)
      if (is_negative(j)) weight[i * others + j] += g * slope * std::exp((s_row[j] - max_negative) / t) / (sum * t);
    for (int64_t j = 0; j < others; ++j)
      weight_error[i * others + j] = std::fabs(weight[i * others + j]) * (4 * x_error + weight_rounding) +
                                     min_value * std::fabs(g) / t + min_weight;
  }
  if (!run.grad_x.empty() || !run.grad_refs.empty())
    DenseGradient<T>(measure, rows, p.refs ? &columns : nullptr, weight, weight_error).check(run.grad_x, run.grad_refs);
}

}  // namespace hardmine::test
