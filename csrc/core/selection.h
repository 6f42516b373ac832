// The rules of selection: which pairs are candidates for an anchor's positive and negative, and which one wins.
//
// Sources: Xuan et al., "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020, section 3 (easiest and
// hardest positive, hardest and semi-hard negative); Schroff et al., "FaceNet", CVPR 2015, section 3.2 (semi-hard
// within the margin).
//
// Every rule except the random ones (random.h) selects the largest key within [lower, upper]. The key is the
// similarity, or for the Euclidean similarity -|a - b| its square -|a - b|^2: both order pairs alike, and the square
// needs no root. For the hyperbolic one it is the negative score of hyperbolic.h. Where the least similar candidate
// wins, keys are negated.
#pragma once

#include <cmath>
#include <limits>

#include "core/candidate.h"
#include "core/hyperbolic.h"

namespace hardmine {

// The order of the enumerators is that of the names in hardmine/types.py.
enum class Similarity { kCosine, kDot, kEuclidean, kHyperbolic };
enum class Positive { kEasiest, kHardest, kRandom };
enum class Negative { kHardest, kEasiest, kSemihard, kRandom };
enum class Fallback { kNone, kHardest, kEasiest };  // for an anchor without a semi-hard negative
enum class Tie { kExclude, kInclude };              // whether s_an == s_ap is semi-hard

struct SelectionRule {
  Similarity similarity = Similarity::kCosine;
  Positive positive = Positive::kEasiest;
  Negative negative = Negative::kHardest;
  Fallback semihard_fallback = Fallback::kNone;
  bool semihard_keeps_ties = false;                                      // s_an == s_ap still counts as semi-hard
  double semihard_margin = std::numeric_limits<double>::infinity();      // s_an > s_ap - margin
  double duplicate_threshold = std::numeric_limits<double>::infinity();  // positives with s_ap above it are dropped
  bool allow_tf32 = false;  // float32 factors of products may be rounded to TF32; only CUDA does
};

// One entry per anchor; index -1 and similarity NaN without a candidate.
//
// The refs may be one block of several. Then the blocks' results are merged by their keys, because similarities are
// clamped and rounded, and tie more often. The positives of all blocks bound semi-hard negatives: without
// `given_positive_key` only positives are selected, with it only negatives.
template <class T>
struct SelectionOut {
  int64_t* positive_index;
  int64_t* negative_index;
  T* positive_similarity;
  T* negative_similarity;
  T* positive_key = nullptr;              // of a block, else null; keys are not negated, NaN without a candidate
  T* negative_key = nullptr;              // of a block, else null
  const T* given_positive_key = nullptr;  // input

  HARDMINE_HD bool selects_positives() const { return given_positive_key == nullptr; }
  HARDMINE_HD bool selects_negatives(Negative negative) const {
    return positive_key == nullptr || negative != Negative::kSemihard || given_positive_key != nullptr;
  }
};

// True if the least similar candidate wins.
HARDMINE_HD bool prefers_least_similar(Positive positive) { return positive == Positive::kHardest; }
HARDMINE_HD bool prefers_least_similar(Negative negative) { return negative == Negative::kEasiest; }

// The selections of each part of the pairs: positives, negatives and, for semi-hard negatives, fallbacks.
HARDMINE_HD int64_t part_selections(const SelectionRule& rule) {
  return rule.negative == Negative::kSemihard && rule.semihard_fallback != Fallback::kNone ? 3 : 2;
}

// The key of a similarity, and the similarity of a key before it is clamped.
template <class T>
HARDMINE_HD T key_from_similarity(Similarity kind, T similarity) {
  if (kind == Similarity::kCosine || kind == Similarity::kDot || similarity > T(0)) return similarity;
  return kind == Similarity::kEuclidean ? -(similarity * similarity) : -hyperbolic_score_at(-similarity);
}
template <class T>
HARDMINE_HD T unclamped_similarity(Similarity kind, T key) {
  if (kind == Similarity::kEuclidean) return -std::sqrt(-key);
  return kind == Similarity::kHyperbolic ? -hyperbolic_distance(-key) : key;
}

// Clamps to [-1, 1], which the rounded sum of products of two unit rows may exceed. NaN stays NaN.
template <class T>
HARDMINE_HD T clamped_cosine(T similarity) {
  return similarity > T(1) ? T(1) : similarity < T(-1) ? T(-1) : similarity;
}
template <class T>
HARDMINE_HD T similarity_from_key(Similarity kind, T key) {
  return kind == Similarity::kCosine ? clamped_cosine(key) : unclamped_similarity(kind, key);
}

// Tiles hold unclamped cosine similarities. Returns the bound on unclamped keys that admits the same pairs as `bound`
// admits by their clamped keys.
template <class T>
HARDMINE_HD T unclamped_bound(Similarity kind, T bound) {
  if (kind != Similarity::kCosine) return bound;
  const T infinity = std::numeric_limits<T>::infinity();
  return bound >= T(1) ? infinity : bound < T(-1) ? -infinity : bound;
}

// The largest unclamped key of a pair whose similarity is at most `bound`.
template <class T>
HARDMINE_HD T max_key(Similarity kind, T bound) {
  return unclamped_bound(kind, key_from_similarity(kind, bound));
}

// The largest number below `x`: "key < x" is then "key <= below(x)". Subnormal numbers are skipped, because a CPU that
// flushes them compares them equal to 0.
template <class T>
HARDMINE_HD T below(T x) {
  const T next = std::nextafter(x, -std::numeric_limits<T>::infinity());
  if (!(std::fabs(next) < std::numeric_limits<T>::min())) return next;
  return x > T(0) ? T(0) : -std::numeric_limits<T>::min();
}

// The admissible keys of an anchor: where the running best starts, and the largest key allowed.
template <class T>
struct KeyRange {
  T start_key;
  Index start_index;
  T upper;
};

template <class T>
HARDMINE_HD KeyRange<T> unlimited_range() {
  return {-std::numeric_limits<T>::infinity(), kBelowRange, std::numeric_limits<T>::infinity()};
}

// Positives: s_ap <= duplicate_threshold. For the hardest positive keys are negated, so the threshold is a lower bound.
template <class T>
HARDMINE_HD KeyRange<T> positive_range(const SelectionRule& rule) {
  KeyRange<T> range = unlimited_range<T>();
  const T limit = max_key(rule.similarity, T(rule.duplicate_threshold));
  if (!(limit < range.upper)) return range;
  if (prefers_least_similar(rule.positive)) {
    range.start_key = -limit;
    range.start_index = kAtLowerBound;
  } else {
    range.upper = limit;
  }
  return range;
}

// Semi-hard negatives: s_ap - margin < s_an < s_ap, or <= s_ap with ties. An anchor without a positive passes NaN as
// `positive_key`. No key is <= NaN, so it gets no semi-hard negative either.
template <class T>
HARDMINE_HD KeyRange<T> semihard_range(const SelectionRule& rule, T positive_key) {
  KeyRange<T> range = unlimited_range<T>();
  if (rule.similarity == Similarity::kCosine) positive_key = clamped_cosine(positive_key);
  range.upper = unclamped_bound(rule.similarity, rule.semihard_keeps_ties ? positive_key : below(positive_key));
  if (rule.semihard_margin < std::numeric_limits<double>::infinity()) {
    const T positive_similarity = similarity_from_key(rule.similarity, positive_key);
    range.start_key = max_key(rule.similarity, positive_similarity - T(rule.semihard_margin));
    range.start_index = kBelowRange;
  }
  return range;
}

}  // namespace hardmine
