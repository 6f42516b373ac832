// The reduction of per-anchor terms to the loss, and its derivatives.
//
// An anchor without a positive or a negative is excluded from the loss and from its mean. Without any valid anchor the
// loss is 0. The SCT presets differ in the mean: over all valid anchors, or over easy and hard anchors separately.
#pragma once

#include <cstdint>

#include "core/losses/triplet_terms.h"

namespace hardmine {

// kMeanActive, the mean over the terms above 0, is kMean with TermRule::only_active in rules.
enum class Reduction { kMean, kSum, kNone, kMeanActive };

// The selected pairs of all anchors. If the indices are null, every anchor has both pairs.
template <class T>
struct SelectedPairs {
  const int64_t* positive_index;  // [B], -1: none
  const int64_t* negative_index;  // [B], -1: none
  const T* positive_similarity;   // [B]
  const T* negative_similarity;   // [B]
  int64_t count;
};

template <class T>
HARDMINE_HD TripletTerm<T> term_of(const TermRule& rule, const SelectedPairs<T>& pairs, int64_t i) {
  const bool has_positive = !pairs.positive_index || pairs.positive_index[i] >= 0;
  const bool has_negative = !pairs.negative_index || pairs.negative_index[i] >= 0;
  if (!has_positive || !has_negative) return {T(0), T(0), T(0), Difficulty::kNone};
  return triplet_term(rule, pairs.positive_similarity[i], pairs.negative_similarity[i]);
}

// The weight of a term in the loss, per difficulty.
struct DifficultyWeights {
  double easy = 1;
  double hard = 1;
  HARDMINE_HD double of(Difficulty difficulty) const {
    return difficulty == Difficulty::kNone ? 0 : difficulty == Difficulty::kEasy ? easy : hard;
  }
};

// `easy` and `hard` count the terms of each difficulty.
HARDMINE_HD DifficultyWeights difficulty_weights(const TermRule& rule, Reduction reduction, int64_t easy,
                                                 int64_t hard) {
  if (reduction != Reduction::kMean) return {};
  if (!rule.separate_means) easy = hard = easy + hard;
  return {easy ? 1.0 / static_cast<double>(easy) : 0.0, hard ? 1.0 / static_cast<double>(hard) : 0.0};
}

// Counts of easy and of hard terms, as doubles, so that threads of a device can reduce them together with other sums.
inline constexpr int kTermCounts = 2;
HARDMINE_HD void count_term(Difficulty difficulty, double* counts) {
  counts[0] += difficulty == Difficulty::kEasy;
  counts[1] += difficulty == Difficulty::kHard;
}
HARDMINE_HD DifficultyWeights difficulty_weights(const TermRule& rule, Reduction reduction, const double* counts) {
  return difficulty_weights(rule, reduction, static_cast<int64_t>(counts[0]), static_cast<int64_t>(counts[1]));
}

// The sums over terms that a reduced loss is computed from: the values of easy and of hard terms, and their counts.
inline constexpr int kTermValues = 2, kTermSums = kTermValues + kTermCounts;
template <class T>
HARDMINE_HD void add_term(const TripletTerm<T>& term, double* sums) {
  const bool hard = term.difficulty == Difficulty::kHard;
  const auto value = static_cast<double>(term.value);
  sums[0] += hard ? 0 : value;
  sums[1] += hard ? value : 0;
  count_term(term.difficulty, sums + kTermValues);
}
HARDMINE_HD double reduced_loss(const TermRule& rule, Reduction reduction, const double* sums) {
  const DifficultyWeights weights = difficulty_weights(rule, reduction, sums + kTermValues);
  return sums[0] * weights.easy + sums[1] * weights.hard;
}

// loss: [1], or [count] without reduction. The sum is in double, in the order of the anchors.
template <class T>
void reduce_loss(const TermRule& rule, Reduction reduction, const SelectedPairs<T>& pairs, T* loss) {
  double sums[kTermSums] = {};
  for (int64_t i = 0; i < pairs.count; ++i) {
    const TripletTerm<T> term = term_of(rule, pairs, i);
    if (reduction == Reduction::kNone) {
      loss[i] = term.value;
    } else {
      add_term(term, sums);
    }
  }
  if (reduction != Reduction::kNone) *loss = T(reduced_loss(rule, reduction, sums));
}

// The derivatives of the loss by s_ap and s_an of one anchor, times grad_term, the gradient of the loss.
template <class T>
HARDMINE_HD void term_backward(const DifficultyWeights& weights, const TripletTerm<T>& term, T grad_term, T* d_positive,
                               T* d_negative) {
  const T weight = term.difficulty == Difficulty::kNone ? T(0) : T(weights.of(term.difficulty)) * grad_term;
  *d_positive = weight * term.d_positive;
  *d_negative = weight * term.d_negative;
}

// d_positive[i] = grad_loss d loss / d s_ap of anchor i, and d_negative[i] the same for s_an. grad_loss: [1], or
// [count] without reduction.
template <class T>
void reduce_loss_backward(const TermRule& rule, Reduction reduction, const SelectedPairs<T>& pairs, const T* grad_loss,
                          T* d_positive, T* d_negative) {
  double counts[kTermCounts] = {};
  if (reduction == Reduction::kMean)
    for (int64_t i = 0; i < pairs.count; ++i) count_term(term_of(rule, pairs, i).difficulty, counts);
  const DifficultyWeights weights = difficulty_weights(rule, reduction, counts);
  for (int64_t i = 0; i < pairs.count; ++i)
    term_backward(weights, term_of(rule, pairs, i), grad_loss[reduction == Reduction::kNone ? i : 0], d_positive + i,
                  d_negative + i);
}

}  // namespace hardmine
