// Batches for the batch-all triplet loss, and the triple loop that defines it.
#pragma once

#include <numeric>
#include <optional>

#include "core/losses/batch_all.h"
#include "support/check.h"
#include "support/dense_gradient.h"
#include "support/names.h"
#include "support/selection_oracle.h"

namespace hardmine::test {

template <class T>
struct BatchAllProblem {
  BatchAllRule rule;
  Batch<T> batch;
  std::vector<T> margins;     // [rows, rows]; empty: rule.margin for all
  std::vector<int64_t> rows;  // row of the table per sample
  int64_t table_rows = 0;
  std::optional<Batch<T>> refs = std::nullopt;
  std::vector<int64_t> ref_rows = {};  // row of the table per ref

  const Batch<T>& others() const { return refs ? *refs : batch; }
  double margin(int64_t anchor, int64_t negative) const {
    if (margins.empty()) return rule.margin;
    return double(margins[rows[anchor] * table_rows + (refs ? ref_rows : rows)[negative]]);
  }
  MarginTable<T> table() const {
    return {margins.empty() ? nullptr : margins.data(), rows.data(), table_rows, refs ? ref_rows.data() : nullptr};
  }
  // A margin for every pair of classes, k / 4 with integers k from -2 to 5, and table rows that no class uses.
  void make_table(Random& random) {
    std::vector<int64_t> classes = batch.label;
    if (refs) classes.insert(classes.end(), refs->label.begin(), refs->label.end());
    std::sort(classes.begin(), classes.end());
    classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
    table_rows = static_cast<int64_t>(classes.size()) + 2;
    std::vector<int64_t> place(table_rows);
    std::iota(place.begin(), place.end(), 0);
    random.shuffle(place);
    const auto rows_of = [&](const Batch<T>& samples) {
      std::vector<int64_t> found;
      for (const int64_t label : samples.label)
        found.push_back(place[std::lower_bound(classes.begin(), classes.end(), label) - classes.begin()]);
      return found;
    };
    rows = rows_of(batch);
    if (refs) ref_rows = rows_of(*refs);
    margins.resize(table_rows * table_rows);
    for (T& margin : margins) margin = T(random.below(8) - 2) / 4;
  }
};

inline std::string text_of(const BatchAllRule& rule, int64_t count, int64_t depth, bool table) {
  return std::to_string(count) + " rows, depth " + std::to_string(depth) + ", " + name_of(rule.similarity) +
         (rule.squared ? ", squared" : "") + ", reduction " + name_of(rule.reduction) + ", margin " +
         (table ? "table" : std::to_string(rule.margin));
}

// Unit rows take squared distances from inner products. Zero rows prevent this.
template <class T>
void fill_zero_rows(Batch<T>& batch) {
  for (int64_t i = 0; i < batch.count; ++i)
    if (std::all_of(batch.row(i), batch.row(i) + batch.depth, [](T x) { return x == T(0); })) batch.row(i)[0] = T(1);
}

template <class T>
void fill_zero_rows(BatchAllProblem<T>& p) {
  fill_zero_rows(p.batch);
  if (p.refs) fill_zero_rows(*p.refs);
}

inline std::vector<int64_t> classes_of(const std::vector<int64_t>& sizes, Random& random) {
  std::vector<int64_t> label;
  for (size_t c = 0; c < sizes.size(); ++c) label.insert(label.end(), sizes[c], static_cast<int64_t>(c) - 1);
  random.shuffle(label);
  return label;
}

// A problem but for its sizes.
struct BatchAllCase {
  Similarity similarity;
  bool squared;
  BatchAllReduction reduction = BatchAllReduction::kMean;
  // Exact are squared distances of integer rows, and inner products of rows with exact norms. Square roots and
  // differences of unit rows round.
  bool exact = false;
  bool has_table = false;
  double margin = 0.5;
  Labels labels = Labels::kOneClass;
  int64_t depth = 3;

  template <class T>
  Batch<T> batch(int64_t count, Random& random) const {
    const Values values = !exact                              ? Values::kReals
                          : similarity == Similarity::kCosine ? Values::kExactNorms
                                                              : Values::kIntegers;
    return Batch<T>(values, labels, count, depth, random);
  }
  template <class T>
  Batch<T> batch(const std::vector<int64_t>& label, Random& random) const {
    Batch<T> made = batch<T>(static_cast<int64_t>(label.size()), random);
    made.label = label;
    return made;
  }
  BatchAllRule rule() const { return {similarity, reduction, squared, margin}; }
  std::string describe(int64_t count, int64_t refs = -1) const {  // refs < 0: none
    return text_of(rule(), count, depth, has_table) + ", refs " + std::to_string(refs) + ", labels " + name_of(labels) +
           text_of({{"exact", exact}});
  }
};

// The result of an engine.
template <class T>
struct BatchAllFound {
  T loss;
  int64_t active, total;
  const std::vector<T>& grad;  // empty: not requested
  const std::vector<T>& grad_refs;
};

struct Coverage {
  int64_t active = 0, total = 0, ties = 0;
};

// `exact`: every triplet term is exact, so the loss and the counts must be exact. `rounding`: relative error of a
// weight in the gradient.
template <class T>
void check_batch_all(const BatchAllProblem<T>& p, const BatchAllFound<T>& found, bool exact, Coverage& coverage,
                     double rounding = 0) {
  // 1/2 (|a - p|^2 - |a - n|^2 + margin), or the same with distances, computed from the rows.
  const bool normalized = p.rule.similarity == Similarity::kCosine;
  const PairMeasure measure{p.rule.squared ? PairQuantity::kNegativeSquaredDistance : PairQuantity::kNegativeDistance,
                            normalized};
  const MeasuredSide<T> side(measure, p.batch), other_side(measure, p.others());
  const std::vector<double> s = measure_matrix(measure, side, other_side);
  const std::vector<int64_t>& label = p.others().label;
  const int64_t count = p.batch.count, columns = p.others().count;
  const double epsilon = std::numeric_limits<T>::epsilon();
  double largest = 1;
  for (const double number : s) largest = std::fmax(largest, std::fabs(number));
  const double slack = exact ? 0 : 8 * epsilon * largest;  // error of a triplet term

  std::vector<double> weight(count * columns, 0.0), error(count * columns, 0.0);
  long double triplets = 0;
  int64_t active = 0, total = 0, unsure = 0;
  for (int64_t a = 0; a < count; ++a) {
    const double* s_row = s.data() + a * columns;
    for (int64_t b = 0; b < columns; ++b) {
      if ((!p.refs && b == a) || label[b] != p.batch.label[a]) continue;
      int64_t of_positive = 0;
      for (int64_t n = 0; n < columns; ++n) {
        if (label[n] == p.batch.label[a]) continue;
        ++total;
        const double value = 0.5 * (s_row[n] - s_row[b] + p.margin(a, n));
        coverage.ties += value == 0;
        if (std::fabs(value) <= slack && !exact) {
          ++unsure;
          error[a * columns + n] += 0.5;
          error[a * columns + b] += 0.5;
        }
        if (!(value > 0)) continue;
        triplets += value;
        ++of_positive;
        weight[a * columns + n] += 0.5;
      }
      weight[a * columns + b] -= 0.5 * static_cast<double>(of_positive);
      active += of_positive;
    }
  }
  const double sum = static_cast<double>(triplets);
  coverage.active += active;
  coverage.total += total;
  CHECK_EQ(found.total, total);
  CHECK(std::llabs(found.active - active) <= unsure);
  const double counted = p.rule.reduction == BatchAllReduction::kSum    ? 1
                         : p.rule.reduction == BatchAllReduction::kMean ? static_cast<double>(total)
                                                                        : static_cast<double>(found.active);
  const double share = counted > 0 ? 1 / counted : 0;
  if (exact) {
    CHECK_EQ(found.active, active);
    CHECK_EQ(found.loss, T(share * sum));
  } else {
    CHECK_NEAR(found.loss, share * sum, share * (slack * static_cast<double>(active + unsure) + 4 * epsilon * sum));
  }
  if (found.grad.empty() && found.grad_refs.empty()) return;
  for (double& w : weight) w *= share;
  for (double& e : error) e *= share;
  for (int64_t e = 0; e < count * columns; ++e) error[e] += (4 * epsilon + rounding) * std::fabs(weight[e]);
  DenseGradient<T>(measure, side, p.refs ? &other_side : nullptr, weight, error).check(found.grad, found.grad_refs);
}

}  // namespace hardmine::test
