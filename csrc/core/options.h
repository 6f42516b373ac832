// Options as they arrive in an op's schema: enums as their codes, the positions of their names in
// hardmine/ops/_arguments.py.
//
// Codes, and lists of them, for two reasons. The stable ABI's conversion of a string argument (torch 2.11 to 2.13)
// leaks a std::string a call, which a training loop would feel; and the autograd machinery around an op takes a time
// that is quadratic in its number of arguments.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "batch_all.h"
#include "global_loss.h"
#include "loss_reduction.h"
#include "pair_measure.h"
#include "selection.h"
#include "tuplet_terms.h"

namespace hardmine {

template <class Enum>
Enum enum_from_code(const char* name, int64_t code, Enum last) {
  if (code < 0 || code > static_cast<int64_t>(last)) {
    std::string message(name);
    message.append(" must be a code from 0 to ").append(std::to_string(static_cast<int64_t>(last)));
    throw std::invalid_argument(message.append(", got ").append(std::to_string(code)));
  }
  return static_cast<Enum>(code);
}

inline void check_option_count(const char* name, size_t count, size_t expected) {
  if (count == expected) return;
  std::string message(name);
  message.append(" must hold ").append(std::to_string(expected)).append(" numbers, got ");
  throw std::invalid_argument(message.append(std::to_string(count)));
}

inline Similarity similarity_from_code(int64_t code) {
  return enum_from_code("similarity", code, Similarity::kEuclidean);
}

inline constexpr size_t kSelectionModes = 6, kSelectionLimits = 2, kLossModes = 4, kLossNumbers = 5;

// modes = [similarity, positive, negative, semihard_fallback, tie, allow_tf32], limits = [duplicate_threshold,
// semihard_margin].
inline SelectionRule selection_rule(const std::vector<int64_t>& modes, const std::vector<double>& limits) {
  check_option_count("selection_modes", modes.size(), kSelectionModes);
  check_option_count("selection_limits", limits.size(), kSelectionLimits);
  SelectionRule rule;
  rule.similarity = similarity_from_code(modes[0]);
  rule.positive = enum_from_code("positive", modes[1], Positive::kRandom);
  rule.negative = enum_from_code("negative", modes[2], Negative::kRandom);
  rule.semihard_fallback = enum_from_code("semihard_fallback", modes[3], Fallback::kEasiest);
  rule.semihard_keeps_ties = enum_from_code("tie", modes[4], Tie::kInclude) == Tie::kInclude;
  rule.allow_tf32 = modes[5] != 0;
  rule.duplicate_threshold = limits[0];
  rule.semihard_margin = limits[1];
  return rule;
}

// The lists of an op with several rules, one after the other, in two: the first `count` options and the others.
template <class T>
std::pair<std::vector<T>, std::vector<T>> split_options(const char* name, const std::vector<T>& options, size_t count,
                                                        size_t others) {
  check_option_count(name, options.size(), count + others);
  const auto middle = options.begin() + static_cast<std::ptrdiff_t>(count);
  return {std::vector<T>(options.begin(), middle), std::vector<T>(middle, options.end())};
}

// modes = [term, hard_rule, separate_means, reduction], numbers = [temperature, margin, lam, hard_cutoff,
// min_similarity].
struct LossRule {
  TermRule term;
  Reduction reduction;

  LossRule(const std::vector<int64_t>& modes, const std::vector<double>& numbers) {
    check_option_count("loss_modes", modes.size(), kLossModes);
    check_option_count("loss_numbers", numbers.size(), kLossNumbers);
    term.term = enum_from_code("term", modes[0], Term::kSct);
    term.hard_rule = enum_from_code("hard_rule", modes[1], HardRule::kAboveOrCutoff);
    term.separate_means = modes[2] != 0;
    reduction = enum_from_code("reduction", modes[3], Reduction::kNone);
    term.temperature = numbers[0];
    term.margin = numbers[1];
    term.lam = numbers[2];
    term.hard_cutoff = numbers[3];
    term.min_similarity = numbers[4];
  }
};

// modes = [similarity, positive, reduction, allow_tf32], numbers = [temperature, duplicate_threshold].
inline TupletRule tuplet_rule(const std::vector<int64_t>& modes, const std::vector<double>& numbers) {
  check_option_count("tuplet_modes", modes.size(), 4);
  check_option_count("tuplet_numbers", numbers.size(), 2);
  TupletRule rule;
  rule.similarity = similarity_from_code(modes[0]);
  rule.positive = enum_from_code("positive", modes[1], TupletPositive::kAll);
  rule.reduction = enum_from_code("reduction", modes[2], Reduction::kNone);
  rule.allow_tf32 = modes[3] != 0;
  rule.temperature = numbers[0];
  // 1 / temperature is a factor of similarities, and must be a number in float.
  if (!(rule.temperature >= 1e-30)) throw std::invalid_argument("temperature must be at least 1e-30");
  rule.duplicate_threshold = numbers[1];
  return rule;
}

// The losses of distances know no inner product.
inline Similarity distance_similarity(int64_t code, const char* loss) {
  const Similarity similarity = similarity_from_code(code);
  if (similarity == Similarity::kDot)
    throw std::invalid_argument(std::string("similarity must not be dot with ").append(loss));
  return similarity;
}

// modes = [similarity, reduction, squared, allow_tf32], numbers = [margin].
inline BatchAllRule batch_all_rule(const std::vector<int64_t>& modes, const std::vector<double>& numbers) {
  check_option_count("batch_all_modes", modes.size(), 4);
  check_option_count("batch_all_numbers", numbers.size(), 1);
  BatchAllRule rule;
  rule.similarity = distance_similarity(modes[0], "batch_all_triplet_loss");
  rule.reduction = enum_from_code("reduction", modes[1], BatchAllReduction::kSum);
  rule.squared = modes[2] != 0;
  rule.allow_tf32 = modes[3] != 0;
  rule.margin = numbers[0];
  return rule;
}

// modes = [similarity, term, reduction], numbers = [temperature, margin, lam].
struct IndexedLossRule {
  PairMeasure measure;
  TermRule term;
  Reduction reduction;

  IndexedLossRule(const std::vector<int64_t>& modes, const std::vector<double>& numbers) {
    check_option_count("modes", modes.size(), 3);
    check_option_count("numbers", numbers.size(), 3);
    term.term = enum_from_code("term", modes[1], Term::kRatio);
    reduction = enum_from_code("reduction", modes[2], Reduction::kNone);
    term.temperature = numbers[0];
    term.margin = numbers[1];
    term.lam = numbers[2];
    if (term.term == Term::kRatio) {
      measure = {PairQuantity::kNegativeDistance, distance_similarity(modes[0], "term ratio") == Similarity::kCosine};
      if (!(term.margin > 0)) throw std::invalid_argument("margin must be > 0 with term ratio");
    } else {
      measure = measure_of(similarity_from_code(modes[0]));
    }
  }
};

// modes = [similarity], numbers = [lam, threshold].
struct GlobalLossRule {
  PairMeasure measure;
  GlobalRule rule;

  GlobalLossRule(const std::vector<int64_t>& modes, const std::vector<double>& numbers) {
    check_option_count("modes", modes.size(), 1);
    check_option_count("numbers", numbers.size(), 2);
    measure = {PairQuantity::kNegativeSquaredDistance,
               distance_similarity(modes[0], "global_loss") == Similarity::kCosine};
    rule.lam = numbers[0];
    rule.threshold = numbers[1];
  }
};

}  // namespace hardmine
