// Compares a selection with the oracle, anchor by anchor.
#pragma once

#include <string>
#include <vector>

#include "support/check.h"
#include "support/names.h"
#include "support/selection_oracle.h"

namespace hardmine::test {

inline std::string describe(const SelectionRule& rule) {
  return name_of(rule.similarity) + ", positive " + name_of(rule.positive) + ", negative " + name_of(rule.negative) +
         ", fallback " + name_of(rule.semihard_fallback) + text_of({{"keeps ties", rule.semihard_keeps_ties}}) +
         ", margin " + std::to_string(rule.semihard_margin) + ", duplicates above " +
         std::to_string(rule.duplicate_threshold);
}

// How often each branch of the rules was taken, so that a sweep that tests nothing fails.
struct SelectionCoverage {
  int64_t anchors = 0, positives = 0, negatives = 0, semihard = 0, no_semihard = 0;

  void count(const SelectionRule& rule, const ChosenPair& chosen) {
    ++anchors;
    positives += chosen.positive.index >= 0;
    negatives += chosen.negative.index >= 0;
    if (rule.negative != Negative::kSemihard || chosen.positive.index < 0) return;
    ++(chosen.negative.index >= 0 && chosen.negative.similarity <= chosen.positive.similarity ? semihard : no_semihard);
  }
};

template <class T>
void check_equal(const Chosen& want, int64_t index, T similarity) {
  CHECK_EQ(index, want.index);
  if (want.index < 0) {
    CHECK(std::isnan(similarity));
  } else {
    CHECK_EQ(similarity, T(want.similarity));
  }
}

// `s`: the similarity matrix for the oracle. Returns what each anchor should get.
template <class T, class Selection>
std::vector<ChosenPair> check_chosen(const SelectionRule& rule, const Batch<T>& anchors, const Batch<T>* refs,
                                     const std::vector<double>& s, const Selection& got, SelectionCoverage& coverage) {
  const Batch<T>& columns = refs ? *refs : anchors;
  std::vector<ChosenPair> chosen;
  for (int64_t i = 0; i < anchors.count; ++i) {
    const ChosenPair want = choose_pair(rule, s.data() + i * columns.count, columns.count, refs ? -1 : i,
                                        anchors.label[i], columns.label, got.u_positive[i], got.u_negative[i]);
    check_equal(want.positive, got.positive_index[i], got.positive_similarity[i]);
    check_equal(want.negative, got.negative_index[i], got.negative_similarity[i]);
    coverage.count(rule, want);
    chosen.push_back(want);
  }
  return chosen;
}

}  // namespace hardmine::test
