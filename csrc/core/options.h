// Rules of the losses from the arguments of the ops' schemas. An enum arrives as a code, the position of its name in
// hardmine/types.py.
//
// Strings are avoided: in torch 2.11 to 2.13 the stable ABI leaks a std::string per string argument and call.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "core/losses/batch_all.h"
#include "core/losses/global_loss.h"
#include "core/losses/loss_reduction.h"
#include "core/losses/tuplet_terms.h"
#include "core/selection.h"
#include "core/similarity.h"

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

inline Similarity similarity_from_code(int64_t code) {
  return enum_from_code("similarity", code, Similarity::kHyperbolic);
}

// The ops without a hyperbolic similarity.
inline Similarity flat_similarity_from_code(int64_t code) {
  return enum_from_code("similarity", code, Similarity::kEuclidean);
}

inline SelectionRule selection_rule(int64_t similarity, int64_t positive, int64_t negative, int64_t semihard_fallback,
                                    int64_t tie, double duplicate_threshold, double semihard_margin, bool allow_tf32) {
  SelectionRule rule;
  rule.similarity = similarity_from_code(similarity);
  rule.positive = enum_from_code("positive", positive, Positive::kRandom);
  rule.negative = enum_from_code("negative", negative, Negative::kRandom);
  rule.semihard_fallback = enum_from_code("semihard_fallback", semihard_fallback, Fallback::kEasiest);
  rule.semihard_keeps_ties = enum_from_code("tie", tie, Tie::kInclude) == Tie::kInclude;
  rule.duplicate_threshold = duplicate_threshold;
  rule.semihard_margin = semihard_margin;
  rule.allow_tf32 = allow_tf32;
  return rule;
}

// The rule of a selection of a negative for every pair of an anchor and one of its positives.
inline SelectionRule all_positives_rule(int64_t similarity, int64_t negative, int64_t semihard_fallback, int64_t tie,
                                        double duplicate_threshold, double semihard_margin, bool allow_tf32) {
  const SelectionRule rule =
      selection_rule(similarity, 0, negative, semihard_fallback, tie, duplicate_threshold, semihard_margin, allow_tf32);
  if (rule.negative == Negative::kRandom) throw std::invalid_argument("negative must not be random with all positives");
  return rule;
}

// What decides how the merged parts of a selection are read.
inline SelectionRule merged_rule(int64_t similarity, int64_t positive, int64_t negative, int64_t semihard_fallback) {
  constexpr double kNoLimit = std::numeric_limits<double>::infinity();
  return selection_rule(similarity, positive, negative, semihard_fallback, 0, kNoLimit, kNoLimit, false);
}

// The rule of a selection among one block of the refs. Random selections depend on all blocks at once.
inline SelectionRule block_selection_rule(int64_t similarity, int64_t positive, int64_t negative, int64_t tie,
                                          double duplicate_threshold, double semihard_margin, bool allow_tf32,
                                          bool has_positive_key) {
  const SelectionRule rule =
      selection_rule(similarity, positive, negative, 0, tie, duplicate_threshold, semihard_margin, allow_tf32);
  if (rule.positive == Positive::kRandom || rule.negative == Negative::kRandom)
    throw std::invalid_argument("positive and negative must not be random in a block");
  if (has_positive_key && rule.negative != Negative::kSemihard)
    throw std::invalid_argument("positive_key must be None unless negative is semihard");
  return rule;
}

// The reduction of terms, and in their rule whether only active ones count.
inline Reduction term_reduction(int64_t code, TermRule& rule) {
  const Reduction reduction = enum_from_code("reduction", code, Reduction::kMeanActive);
  rule.only_active = reduction == Reduction::kMeanActive;
  return rule.only_active ? Reduction::kMean : reduction;
}

// The loss of selected similarities.
struct LossRule {
  TermRule term;
  Reduction reduction;
};

inline LossRule loss_rule(int64_t term, int64_t hard_rule, bool separate_means, double temperature, double margin,
                          double lam, double hard_cutoff, double min_similarity, int64_t reduction) {
  LossRule rule;
  rule.term.term = enum_from_code("term", term, Term::kSct);
  rule.term.hard_rule = enum_from_code("hard_rule", hard_rule, HardRule::kAboveOrCutoff);
  rule.term.separate_means = separate_means;
  rule.term.temperature = temperature;
  rule.term.margin = margin;
  rule.term.lam = lam;
  rule.term.hard_cutoff = hard_cutoff;
  rule.term.min_similarity = min_similarity;
  rule.reduction = term_reduction(reduction, rule.term);
  return rule;
}

inline TupletRule tuplet_rule(int64_t similarity, int64_t positive, double temperature, double duplicate_threshold,
                              int64_t reduction, bool allow_tf32) {
  TupletRule rule;
  rule.similarity = flat_similarity_from_code(similarity);
  rule.positive = enum_from_code("positive", positive, TupletPositive::kAll);
  rule.reduction = enum_from_code("reduction", reduction, Reduction::kNone);
  rule.temperature = temperature;
  // 1 / temperature must be finite in float.
  if (!(rule.temperature >= 1e-30)) throw std::invalid_argument("temperature must be at least 1e-30");
  rule.duplicate_threshold = duplicate_threshold;
  rule.allow_tf32 = allow_tf32;
  return rule;
}

// The rule of a pass among one block of the refs.
inline TupletRule tuplet_block_rule(int64_t similarity, double temperature, double duplicate_threshold,
                                    bool allow_tf32) {
  return tuplet_rule(similarity, static_cast<int64_t>(TupletPositive::kAll), temperature, duplicate_threshold,
                     static_cast<int64_t>(Reduction::kNone), allow_tf32);
}

// Losses of distances do not support inner products.
inline Similarity distance_similarity(int64_t code, const char* loss) {
  const Similarity similarity = flat_similarity_from_code(code);
  if (similarity == Similarity::kDot)
    throw std::invalid_argument(std::string("similarity must not be dot with ").append(loss));
  return similarity;
}

inline BatchAllRule batch_all_rule(int64_t similarity, bool squared, double margin, int64_t reduction,
                                   bool allow_tf32) {
  BatchAllRule rule;
  rule.similarity = distance_similarity(similarity, "batch_all_triplet_loss");
  rule.reduction = enum_from_code("reduction", reduction, BatchAllReduction::kSum);
  rule.squared = squared;
  rule.margin = margin;
  rule.allow_tf32 = allow_tf32;
  return rule;
}

struct IndexedLossRule {
  PairMeasure measure;
  TermRule term;
  Reduction reduction;
};

inline IndexedLossRule indexed_loss_rule(int64_t similarity, int64_t term, double temperature, double margin,
                                         double lam, int64_t reduction) {
  IndexedLossRule rule;
  rule.term.term = enum_from_code("term", term, Term::kRatio);
  rule.term.temperature = temperature;
  rule.term.margin = margin;
  rule.term.lam = lam;
  rule.reduction = enum_from_code("reduction", reduction, Reduction::kNone);
  if (rule.term.term != Term::kRatio) {
    rule.measure = measure_of(flat_similarity_from_code(similarity));
    return rule;
  }
  const bool normalized = measure_of(distance_similarity(similarity, "term ratio")).normalized;
  rule.measure = {PairQuantity::kNegativeDistance, normalized};
  if (!(margin > 0)) throw std::invalid_argument("margin must be > 0 with term ratio");
  return rule;
}

struct GlobalLossRule {
  PairMeasure measure;
  GlobalRule rule;
};

inline GlobalLossRule global_loss_rule(int64_t similarity, double lam, double threshold) {
  const bool normalized = measure_of(distance_similarity(similarity, "global_loss")).normalized;
  return {{PairQuantity::kNegativeSquaredDistance, normalized}, {lam, threshold}};
}

}  // namespace hardmine
