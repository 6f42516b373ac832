// Selection as a double loop over all pairs, straight from the definitions of the rules.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "core/selection.h"
#include "support/samples.h"

namespace hardmine::test {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
inline constexpr Similarity kSimilarities[] = {Similarity::kCosine, Similarity::kDot, Similarity::kEuclidean};

// Samples whose similarities are exact.
inline Values exact_values(Similarity similarity) {
  return similarity == Similarity::kCosine ? Values::kExactNorms : Values::kIntegers;
}

// [rows, columns] in double, exact for the exact samples.
template <class T>
std::vector<double> similarity_matrix(Similarity kind, const Batch<T>& rows, const Batch<T>& columns) {
  const auto norms = [](const Batch<T>& batch) {
    std::vector<double> norm(batch.count);
    for (int64_t i = 0; i < batch.count; ++i) {
      double squares = 0;
      for (int64_t k = 0; k < batch.depth; ++k)
        squares += double(batch.x[i * batch.depth + k]) * batch.x[i * batch.depth + k];
      norm[i] = squares == 0 ? 1 : std::sqrt(squares);
    }
    return norm;
  };
  const std::vector<double> row_norm = norms(rows), column_norm = norms(columns);
  std::vector<double> s(rows.count * columns.count);
  for (int64_t i = 0; i < rows.count; ++i) {
    for (int64_t j = 0; j < columns.count; ++j) {
      const T *a = rows.x.data() + i * rows.depth, *b = columns.x.data() + j * rows.depth;
      double sum = 0;
      for (int64_t k = 0; k < rows.depth; ++k) {
        if (kind == Similarity::kEuclidean) sum += (double(a[k]) - b[k]) * (double(a[k]) - b[k]);
        if (kind == Similarity::kDot) sum += double(a[k]) * b[k];
        if (kind == Similarity::kCosine) sum += a[k] / row_norm[i] * (b[k] / column_norm[j]);
      }
      s[i * columns.count + j] = kind == Similarity::kEuclidean ? -std::sqrt(sum) : sum;
    }
  }
  return s;
}

struct Chosen {
  int64_t index = -1;
  double similarity = kNaN;
};
struct ChosenPair {
  Chosen positive, negative;
};

// The most (or least) similar column that `admits` accepts; ties go to the lowest index. NaN is never selected, nor is
// -inf as a maximum or +inf as a minimum.
template <class Admits>
Chosen choose(const double* s, int64_t columns, bool smallest_wins, const Admits& admits) {
  Chosen best;
  for (int64_t j = 0; j < columns; ++j) {
    if (std::isnan(s[j]) || s[j] == (smallest_wins ? kInfinity : -kInfinity) || !admits(j)) continue;
    if (best.index < 0 || (smallest_wins ? s[j] < best.similarity : s[j] > best.similarity)) best = {j, s[j]};
  }
  return best;
}

// The floor(u count)-th of the columns that `admits` accepts. NaN is never selected.
template <class Admits>
Chosen draw(const double* s, int64_t columns, double u, const Admits& admits) {
  std::vector<int64_t> candidates;
  for (int64_t j = 0; j < columns; ++j)
    if (!std::isnan(s[j]) && admits(j)) candidates.push_back(j);
  if (candidates.empty()) return {};
  const int64_t j = candidates[static_cast<size_t>(u * static_cast<double>(candidates.size()))];
  return {j, s[j]};
}

// `u_positive` and `u_negative`, in [0, 1), are the random numbers of random selections.
inline ChosenPair choose_pair(const SelectionRule& rule, const double* s, int64_t columns, int64_t own_column,
                              int64_t own_label, const std::vector<int64_t>& label, double u_positive,
                              double u_negative) {
  ChosenPair chosen;
  const auto is_positive = [&](int64_t j) {
    return label[j] == own_label && j != own_column && s[j] <= rule.duplicate_threshold;
  };
  const auto is_negative = [&](int64_t j) { return label[j] != own_label; };
  chosen.positive = rule.positive == Positive::kRandom
                        ? draw(s, columns, u_positive, is_positive)
                        : choose(s, columns, rule.positive == Positive::kHardest, is_positive);
  if (rule.negative == Negative::kRandom) {
    chosen.negative = draw(s, columns, u_negative, is_negative);
    return chosen;
  }
  if (rule.negative != Negative::kSemihard) {
    chosen.negative = choose(s, columns, rule.negative == Negative::kEasiest, is_negative);
    return chosen;
  }
  const double s_ap = chosen.positive.similarity;  // NaN without a positive: then nothing is semi-hard
  chosen.negative = choose(s, columns, false, [&](int64_t j) {
    const bool below = rule.semihard_keeps_ties ? s[j] <= s_ap : s[j] < s_ap;
    return is_negative(j) && below && (rule.semihard_margin == kInfinity || s[j] > s_ap - rule.semihard_margin);
  });
  if (chosen.negative.index < 0 && rule.semihard_fallback != Fallback::kNone)
    chosen.negative = choose(s, columns, rule.semihard_fallback == Fallback::kEasiest, is_negative);
  return chosen;
}

// Every combination of rules. Similarities of the exact samples reach the thresholds.
inline std::vector<SelectionRule> all_rules(Similarity similarity) {
  const double margin = similarity == Similarity::kCosine ? 0.5 : 2;
  const double threshold = similarity == Similarity::kCosine ? 0.5 : similarity == Similarity::kDot ? 2 : -1;
  std::vector<SelectionRule> rules;
  for (const Positive positive : {Positive::kEasiest, Positive::kHardest, Positive::kRandom}) {
    for (const double duplicate_threshold : {kInfinity, threshold}) {
      const auto add = [&](Negative negative, Fallback fallback, bool keeps_ties, double semihard_margin) {
        rules.push_back({similarity, positive, negative, fallback, keeps_ties, semihard_margin, duplicate_threshold});
      };
      add(Negative::kHardest, Fallback::kNone, false, kInfinity);
      add(Negative::kEasiest, Fallback::kNone, false, kInfinity);
      add(Negative::kRandom, Fallback::kNone, false, kInfinity);
      for (const Fallback fallback : {Fallback::kNone, Fallback::kHardest, Fallback::kEasiest})
        for (const bool keeps_ties : {false, true})
          for (const double semihard_margin : {kInfinity, margin})
            add(Negative::kSemihard, fallback, keeps_ties, semihard_margin);
    }
  }
  return rules;
}

}  // namespace hardmine::test
