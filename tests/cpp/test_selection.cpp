#include "core/selection.h"

#include <vector>

#include "support/check.h"

using namespace hardmine;

namespace {

template <class T>
constexpr T kInf = std::numeric_limits<T>::infinity();
template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// Whether a kernel would accept this key as the first candidate of its anchor.
template <class T>
bool admits(const KeyRange<T>& range, T key) {
  return key <= range.upper && beats(key, 5, range.start_key, range.start_index);
}

template <class T>
std::vector<T> similarities(Similarity kind) {
  std::vector<T> s;
  const T largest = kind == Similarity::kCosine ? T(1) : kind == Similarity::kDot ? T(4) : T(0);
  for (T value = kind == Similarity::kEuclidean ? T(-9) : -largest; value <= largest; value += T(0.25))
    s.push_back(value);
  return s;
}

}  // namespace

TYPED_TEST(below_is_next_smaller_number, T) {
  const T eps = std::numeric_limits<T>::epsilon(), smallest = std::numeric_limits<T>::min();
  const T tiny = std::numeric_limits<T>::denorm_min();
  CHECK_EQ(below(T(1)), T(1) - eps / 2);
  CHECK_EQ(below(T(-1)), T(-1) - eps);
  CHECK_EQ(below(T(0)), -smallest);  // subnormal numbers are skipped
  CHECK_EQ(below(smallest), T(0));
  CHECK_EQ(below(-tiny), -smallest);
  CHECK_EQ(below(T(-0.0)), -smallest);
  CHECK_EQ(below(tiny), T(0));
  CHECK_EQ(below(kInf<T>), std::numeric_limits<T>::max());
  CHECK_EQ(below(-std::numeric_limits<T>::max()), -kInf<T>);
  CHECK_EQ(below(-kInf<T>), -kInf<T>);
  CHECK(std::isnan(below(kNan<T>)));
  // "key < x" and "key <= below(x)" agree around x.
  for (const T x : {T(-2), T(0), T(0.9999), T(1)})
    for (const T key : {below(below(x)), below(x), x, std::nextafter(x, kInf<T>)}) CHECK_EQ(key <= below(x), key < x);
}

TYPED_TEST(key_order_follows_similarity, T) {
  for (const Similarity kind : {Similarity::kCosine, Similarity::kDot, Similarity::kEuclidean}) {
    const std::vector<T> all = similarities<T>(kind);
    for (size_t i = 0; i < all.size(); ++i) {
      CHECK_EQ(similarity_from_key(kind, key_from_similarity(kind, all[i])), all[i]);
      if (i) CHECK(key_from_similarity(kind, all[i - 1]) < key_from_similarity(kind, all[i]));
    }
    CHECK_EQ(key_from_similarity(kind, -kInf<T>), -kInf<T>);
    CHECK_EQ(key_from_similarity(kind, kInf<T>), kInf<T>);
    CHECK(std::isnan(similarity_from_key(kind, kNan<T>)));
  }
  // Distances are compared by their squares: -|a - b| = -3 has key -9. No distance reaches a positive bound, which
  // stays above all keys.
  CHECK_EQ(key_from_similarity(Similarity::kEuclidean, T(-3)), T(-9));
  CHECK_EQ(key_from_similarity(Similarity::kEuclidean, T(0)), T(0));
  CHECK_EQ(key_from_similarity(Similarity::kEuclidean, T(2)), T(2));
  CHECK_EQ(similarity_from_key(Similarity::kEuclidean, T(-9)), T(-3));
  CHECK_EQ(key_from_similarity(Similarity::kCosine, T(-0.5)), T(-0.5));
  CHECK_EQ(similarity_from_key(Similarity::kDot, T(-9)), T(-9));
}

TEST(unlimited_range_admits_every_finite_key) {
  const KeyRange<float> range = unlimited_range<float>();
  for (const float key : {-3e38F, -1.0F, 0.0F, 3e38F, kInf<float>}) CHECK(admits(range, key));
  CHECK(!admits(range, -kInf<float>));
  CHECK(!admits(range, kNan<float>));
}

// In tiles, cosine similarities may slightly exceed 1 or -1 by rounding.
TYPED_TEST(key_range_around_cosine_1_equals_clamped_bounds, T) {
  std::vector<T> sums, bounds;
  for (const T one : {T(-1), T(1)}) {
    for (const T s : {below(below(one)), below(one), one, -below(-one), -below(below(-one))}) sums.push_back(s);
    bounds.insert(bounds.end(), {below(one), one, -below(-one)});
  }
  const auto clamped = [](T s) { return similarity_from_key(Similarity::kCosine, s); };
  CHECK(std::isnan(clamped(kNan<T>)));
  for (const T s : sums) {
    CHECK_EQ(clamped(s), std::fmax(T(-1), std::fmin(T(1), s)));
    CHECK_EQ(similarity_from_key(Similarity::kDot, s), s);
    for (const T bound : bounds) {
      for (const Positive positive : {Positive::kEasiest, Positive::kHardest}) {
        SelectionRule rule;
        rule.positive = positive;
        rule.duplicate_threshold = static_cast<double>(bound);
        CHECK_EQ(admits(positive_range<T>(rule), prefers_least_similar(positive) ? -s : s), clamped(s) <= bound);
      }
    }
    for (const T s_ap : sums) {
      for (const bool keeps_ties : {false, true}) {
        for (const double margin : {0.0, 0.5, 2.0, 3.0}) {
          SelectionRule rule;
          rule.semihard_keeps_ties = keeps_ties;
          rule.semihard_margin = margin;
          const bool is_below = keeps_ties ? clamped(s) <= clamped(s_ap) : clamped(s) < clamped(s_ap);
          CHECK_EQ(admits(semihard_range(rule, s_ap), s), is_below && clamped(s) > clamped(s_ap) - T(margin));
        }
      }
    }
  }
}

TYPED_TEST(positive_range_excludes_similarities_above_threshold, T) {
  for (const Similarity kind : {Similarity::kCosine, Similarity::kDot, Similarity::kEuclidean}) {
    for (const Positive positive : {Positive::kEasiest, Positive::kHardest}) {
      for (const double threshold : {-3.0, -0.25, 0.0, 0.75, 1e9, double(kInf<double>)}) {
        SelectionRule rule;
        rule.similarity = kind;
        rule.positive = positive;
        rule.duplicate_threshold = threshold;
        const KeyRange<T> range = positive_range<T>(rule);
        for (const T s : similarities<T>(kind)) {
          const T order = key_from_similarity(kind, s);
          CHECK_EQ(admits(range, prefers_least_similar(positive) ? -order : order), s <= T(threshold));
        }
        CHECK(!admits(range, kNan<T>));
      }
    }
  }
}

TEST(positive_range_threshold_is_rounded_to_type) {
  // The threshold is rounded to the type of the comparison, so a similarity equal to it stays.
  SelectionRule rule;
  rule.duplicate_threshold = 0.9999;
  CHECK(admits(positive_range<float>(rule), 0.9999F));
  CHECK(!admits(positive_range<float>(rule), std::nextafter(0.9999F, 1.0F)));
  // A NaN threshold excludes nothing.
  rule.duplicate_threshold = kNan<double>;
  CHECK(admits(positive_range<float>(rule), 1.0F));
}

TYPED_TEST(semihard_range_lies_between_margin_and_positive, T) {
  for (const Similarity kind : {Similarity::kCosine, Similarity::kDot, Similarity::kEuclidean}) {
    for (const bool keeps_ties : {false, true}) {
      for (const double margin : {-1.0, 0.0, 0.25, 2.0, double(kInf<double>)}) {
        SelectionRule rule;
        rule.similarity = kind;
        rule.negative = Negative::kSemihard;
        rule.semihard_keeps_ties = keeps_ties;
        rule.semihard_margin = margin;
        for (const T s_ap : similarities<T>(kind)) {
          const KeyRange<T> range = semihard_range(rule, key_from_similarity(kind, s_ap));
          for (const T s_an : similarities<T>(kind)) {
            const bool want = (keeps_ties ? s_an <= s_ap : s_an < s_ap) && s_an > s_ap - T(margin);
            CHECK_EQ(admits(range, key_from_similarity(kind, s_an)), want);
          }
        }
        // Without a positive no negative is semi-hard.
        const KeyRange<T> none = semihard_range(rule, kNan<T>);
        for (const T s_an : similarities<T>(kind)) CHECK(!admits(none, key_from_similarity(kind, s_an)));
      }
    }
  }
}

TEST(prefers_least_similar_hardest_positive_and_easiest_negative) {
  CHECK(prefers_least_similar(Positive::kHardest));
  CHECK(!prefers_least_similar(Positive::kEasiest));
  CHECK(!prefers_least_similar(Positive::kRandom));
  CHECK(prefers_least_similar(Negative::kEasiest));
  CHECK(!prefers_least_similar(Negative::kHardest));
  CHECK(!prefers_least_similar(Negative::kSemihard));
  CHECK(!prefers_least_similar(Negative::kRandom));
}
