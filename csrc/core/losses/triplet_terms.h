// The loss term of one anchor with one positive and one negative, f(s_ap, s_an), and its two derivatives.
//
// Sources: nca, Xuan et al., WACV 2020, section 4, and ECCV 2020 ("Hard negative examples are hard, but useful"), eq.
// 1; hinge, WACV 2020, section 2.1; soft margin, Hermans et al., arXiv:1703.07737; sct, ECCV 2020, eq. 13; ratio,
// Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, eq. 2.
#pragma once

#include <limits>

#include "core/elementary.h"

namespace hardmine {

// The order of the enumerators is that of the names in hardmine/types.py.
enum class Term { kNca, kHinge, kSoftMargin, kSct, kRatio };

// When an SCT triplet is hard: kAbove in the paper, the other two in the authors' published code of 2020 and 2021.
enum class HardRule {
  kAbove,           // s_an > s_ap
  kAboveAndCutoff,  // s_an > s_ap and s_an > cutoff; every other triplet is easy
  kAboveOrCutoff,   // s_an > s_ap or s_an > cutoff; easy if s_an < s_ap and s_an < cutoff; ties are neither
};

struct TermRule {
  Term term = Term::kNca;
  double temperature = 0.1;
  double margin = 0.2;
  double lam = 1.0;
  HardRule hard_rule = HardRule::kAbove;
  double hard_cutoff = 0.0;
  bool separate_means = false;  // mean(easy) + mean(hard), each over its own count
  double min_similarity =
      -std::numeric_limits<double>::infinity();  // anchors count only if s_ap and s_an both exceed it
  bool only_active = false;                      // terms that are 0 or less do not count; not with kRatio
};

// kNone: the anchor has no term. A mean may be over easy and hard terms separately.
enum class Difficulty { kNone, kEasy, kHard };

template <class T>
struct TripletTerm {
  T value;
  T d_positive;  // d value / d s_ap
  T d_negative;  // d value / d s_an
  Difficulty difficulty;
};

// softplus(x / t), x = s_an - s_ap. d / d s_an = sigmoid(x / t) / t, and d / d s_ap is its negative.
template <class T>
HARDMINE_HD TripletTerm<T> softplus_term(T positive, T negative, T temperature) {
  const T x = (negative - positive) / temperature;
  const T slope = sigmoid(x) / temperature;
  return {softplus(x), -slope, slope, Difficulty::kEasy};
}

// max(0, 1 - d_an / r), r = d_ap + margin > 0, of distances d = -s. d / d s_an = 1 / r, d / d s_ap = -d_an / r^2.
template <class T>
HARDMINE_HD TripletTerm<T> ratio_term(T positive, T negative, T margin) {
  const T r = margin - positive, quotient = -negative / r;
  const T value = T(1) - quotient;
  if (value <= T(0)) return {T(0), T(0), T(0), Difficulty::kEasy};  // false for NaN
  return {value, -quotient / r, T(1) / r, Difficulty::kEasy};
}

template <class T>
HARDMINE_HD Difficulty sct_difficulty(const TermRule& rule, T positive, T negative) {
  const T cutoff = T(rule.hard_cutoff);
  switch (rule.hard_rule) {
    case HardRule::kAbove:
      return negative > positive ? Difficulty::kHard : Difficulty::kEasy;
    case HardRule::kAboveAndCutoff:
      return negative > positive && negative > cutoff ? Difficulty::kHard : Difficulty::kEasy;
    case HardRule::kAboveOrCutoff:
      if (negative > positive || negative > cutoff) return Difficulty::kHard;
      return negative < positive && negative < cutoff ? Difficulty::kEasy : Difficulty::kNone;
  }
  return Difficulty::kNone;
}

// Softplus is above 0, so its terms are active even where they underflow.
template <class T>
HARDMINE_HD bool is_inactive(const TermRule& rule, T value) {
  return rule.only_active && value <= T(0);  // false for NaN
}

// The term of an anchor with s_ap = `positive` and s_an = `negative`.
template <class T>
HARDMINE_HD TripletTerm<T> triplet_term(const TermRule& rule, T positive, T negative) {
  const TripletTerm<T> nothing{T(0), T(0), T(0), Difficulty::kNone};
  const T floor = T(rule.min_similarity);
  if (!(positive > floor && negative > floor) && rule.min_similarity > -std::numeric_limits<double>::infinity())
    return nothing;
  switch (rule.term) {
    case Term::kNca:
      return softplus_term(positive, negative, T(rule.temperature));
    case Term::kSoftMargin:
      return softplus_term(positive, negative, T(1));
    case Term::kHinge: {
      const T x = negative - positive + T(rule.margin);
      if (is_inactive(rule, x)) return nothing;
      if (x <= T(0)) return {T(0), T(0), T(0), Difficulty::kEasy};  // false for NaN
      return {x, T(-1), T(1), Difficulty::kEasy};
    }
    case Term::kSct: {
      const Difficulty difficulty = sct_difficulty(rule, positive, negative);
      if (difficulty == Difficulty::kNone) return nothing;
      // Hard: lam s_an, without a gradient for the positive pair.
      if (difficulty == Difficulty::kHard) {
        const T value = T(rule.lam) * negative;
        return is_inactive(rule, value) ? nothing : TripletTerm<T>{value, T(0), T(rule.lam), difficulty};
      }
      return softplus_term(positive, negative, T(rule.temperature));
    }
    case Term::kRatio:
      return ratio_term(positive, negative, T(rule.margin));
  }
  return nothing;
}

}  // namespace hardmine
