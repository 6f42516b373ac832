#include "core/candidate_words.h"

#include <array>
#include <limits>
#include <vector>

#include "support/check.h"
#include "support/samples.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

template <class T>
std::array<int64_t, 2> words_of(T key, Index index) {
  std::array<int64_t, 2> words{};
  write_candidate(key, index, words.data(), 1);
  return words;
}

// Keys with every index: includes ties, zeros of both signs, subnormal numbers and infinities.
template <class T>
std::vector<KeyedIndex<T>> all_candidates() {
  using Limits = std::numeric_limits<T>;
  std::vector<KeyedIndex<T>> all;
  for (const T key : {-Limits::infinity(), Limits::lowest(), T(-1), -Limits::min(), -Limits::denorm_min(), T(-0.0),
                      T(0), Limits::denorm_min(), T(1), std::nextafter(T(1), T(2)), Limits::infinity()})
    for (const Index index : {0, 1, 7, INT32_MAX - 2, INT32_MAX - 1}) all.push_back({key, index});
  return all;
}

}  // namespace

TYPED_TEST(candidate_words_any_candidate_are_read_back, T) {
  for (const KeyedIndex<T>& candidate : all_candidates<T>()) {
    const std::array<int64_t, 2> words = words_of(candidate.key, candidate.index);
    const KeyedIndex<T> read = read_candidate<T>(words.data(), 1);
    CHECK_EQ(read.index, candidate.index);
    CHECK_EQ(read.key, candidate.key);
    CHECK_EQ(std::signbit(read.key), std::signbit(candidate.key));
  }
}

TYPED_TEST(candidate_words_two_candidates_are_in_the_order_of_beats, T) {
  const std::vector<KeyedIndex<T>> all = all_candidates<T>();
  for (const KeyedIndex<T>& a : all)
    for (const KeyedIndex<T>& b : all)
      if (a.index != b.index)
        CHECK_EQ(words_of(a.key, a.index) > words_of(b.key, b.index), beats(a.key, a.index, b.key, b.index));
}

TYPED_TEST(candidate_words_no_candidate_is_below_all_others, T) {
  for (const Index sentinel : {kBelowRange, kAtLowerBound}) {
    const std::array<int64_t, 2> none = words_of(T(1), sentinel);
    CHECK(!is_candidate(read_candidate<T>(none.data(), 1).index));
    for (const KeyedIndex<T>& candidate : all_candidates<T>())
      for (int64_t w = 0; w < kCandidateWords<T>; ++w) CHECK(none[w] < words_of(candidate.key, candidate.index)[w]);
  }
}

TYPED_TEST(candidate_words_stride_separates_the_words, T) {
  std::vector<int64_t> words(8, 77);
  write_candidate(T(-2.5), 6, words.data() + 1, 4);
  for (int64_t w = 0; w < 8; ++w) CHECK_EQ(words[w] == 77, w != 1 && !(w == 5 && kCandidateWords<T> == 2));
  const KeyedIndex<T> read = read_candidate<T>(words.data() + 1, 4);
  CHECK_EQ(read.key, T(-2.5));
  CHECK_EQ(read.index, 6);
}
