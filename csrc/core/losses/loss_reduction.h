// From one term an anchor to the loss, and back: who counts, and with which weight. Runs over [B] numbers only.
//
// Contract: an anchor without a positive or a negative is left out of the loss and of its mean; without any valid
// anchor the loss is 0. The presets of SCT differ in the mean: over all valid anchors, or over each difficulty's own
// count.
#pragma once

#include <cstdint>

#include "core/losses/triplet_terms.h"

namespace hardmine {

enum class Reduction { kMean, kSum, kNone };

// The pairs of [B] anchors; without indices (null) all are there.
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

// The weight of an anchor's term in the loss, by its difficulty.
struct DifficultyWeights {
  double easy = 1;
  double hard = 1;
  HARDMINE_HD double of(Difficulty difficulty) const {
    return difficulty == Difficulty::kNone ? 0 : difficulty == Difficulty::kEasy ? easy : hard;
  }
};

// From the numbers of terms in each difficulty.
HARDMINE_HD DifficultyWeights difficulty_weights(const TermRule& rule, Reduction reduction, int64_t easy,
                                                 int64_t hard) {
  if (reduction != Reduction::kMean) return {};
  if (!rule.separate_means) easy = hard = easy + hard;
  return {easy ? 1.0 / static_cast<double>(easy) : 0.0, hard ? 1.0 / static_cast<double>(hard) : 0.0};
}

template <class T>
DifficultyWeights difficulty_weights(const TermRule& rule, Reduction reduction, const SelectedPairs<T>& pairs) {
  if (reduction != Reduction::kMean) return {};
  int64_t easy = 0, hard = 0;
  for (int64_t i = 0; i < pairs.count; ++i) {
    const Difficulty difficulty = term_of(rule, pairs, i).difficulty;
    easy += difficulty == Difficulty::kEasy;
    hard += difficulty == Difficulty::kHard;
  }
  return difficulty_weights(rule, reduction, easy, hard);
}

// loss: one number, or [B] without reduction. Summed in double, in the order of the anchors.
template <class T>
void reduce_loss(const TermRule& rule, Reduction reduction, const SelectedPairs<T>& pairs, T* loss) {
  if (reduction == Reduction::kNone) {
    for (int64_t i = 0; i < pairs.count; ++i) loss[i] = term_of(rule, pairs, i).value;
    return;
  }
  const DifficultyWeights weights = difficulty_weights(rule, reduction, pairs);
  double easy = 0, hard = 0;
  for (int64_t i = 0; i < pairs.count; ++i) {
    const TripletTerm<T> term = term_of(rule, pairs, i);
    (term.difficulty == Difficulty::kHard ? hard : easy) += static_cast<double>(term.value);
  }
  *loss = T(easy * weights.easy + hard * weights.hard);
}

// The derivatives of the loss by s_ap and s_an of one anchor, of which grad_term is the gradient that arrives at the
// loss.
template <class T>
HARDMINE_HD void term_backward(const DifficultyWeights& weights, const TripletTerm<T>& term, T grad_term, T* d_positive,
                               T* d_negative) {
  const T weight = term.difficulty == Difficulty::kNone ? T(0) : T(weights.of(term.difficulty)) * grad_term;
  *d_positive = weight * term.d_positive;
  *d_negative = weight * term.d_negative;
}

// d_positive[i] = d loss / d s_ap of anchor i, times grad_loss: one number, or [B] without reduction. Likewise
// d_negative.
template <class T>
void reduce_loss_backward(const TermRule& rule, Reduction reduction, const SelectedPairs<T>& pairs, const T* grad_loss,
                          T* d_positive, T* d_negative) {
  const DifficultyWeights weights = difficulty_weights(rule, reduction, pairs);
  for (int64_t i = 0; i < pairs.count; ++i)
    term_backward(weights, term_of(rule, pairs, i), grad_loss[reduction == Reduction::kNone ? i : 0], d_positive + i,
                  d_negative + i);
}

}  // namespace hardmine
