// Inputs for the tests: embeddings whose similarities are exact in every type, and labels of many kinds.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/views.h"

namespace hardmine::test {

// Row and column counts around the sizes of micro-tiles, panels and blocks of every SIMD target, and depths around
// theirs.
inline const std::vector<int64_t> kCounts = {0,  1,  2,  3,  5,  6,  7,  11,  12,  13, 16,
                                             17, 31, 32, 33, 95, 96, 97, 255, 256, 257};
inline const std::vector<int64_t> kDepths = {1, 2, 15, 16, 17, 255, 256, 257, 513};
inline constexpr int64_t kShortDepths[] = {1, 2, 3, 15, 16, 17, 33};
// Counts around the sizes of blocks alone.
inline constexpr int64_t kEdges[] = {0, 1, 2, 3, 31, 32, 33, 95, 96, 97, 191, 192, 193};

// SplitMix64. Unlike the standard distributions, it gives the same numbers on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  template <class Values>
  void shuffle(Values& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[below(static_cast<int64_t>(i))]);
  }

 private:
  uint64_t state_;
};

// Every combination of the values of some lists: cases_of<Case>(kLabels, kDepths) has a Case{labels, depth} for each.
template <class Case, class... Lists>
std::vector<Case> cases_of(const Lists&... lists) {
  std::vector<Case> cases;
  for (size_t code = 0; code < (std::size(lists) * ...); ++code) {
    size_t rest = code;
    const auto value_in = [&](const auto& list) {
      const size_t place = rest % std::size(list);
      rest /= std::size(list);
      return *(std::begin(list) + place);
    };
    cases.push_back({value_in(lists)...});
  }
  return cases;
}

// Deals cases from a shuffled list, for sweeps over sizes with too many cases to run them all at every size. After the
// last case the first one follows.
template <class Case>
class Deck {
 public:
  explicit Deck(std::vector<Case> cases, uint64_t seed = 1) : cases_(std::move(cases)) { Random(seed).shuffle(cases_); }
  const Case& next() { return cases_[dealt_++ % cases_.size()]; }

 private:
  std::vector<Case> cases_;
  size_t dealt_ = 0;
};

inline constexpr bool kEither[] = {false, true};

// Every combination of N flags: for (const auto& [symmetric, bounded] : all_flags<2>()). The first changes fastest.
template <size_t N>
std::array<std::array<bool, N>, size_t{1} << N> all_flags() {
  std::array<std::array<bool, N>, size_t{1} << N> all;
  for (size_t code = 0; code < all.size(); ++code)
    for (size_t n = 0; n < N; ++n) all[code][n] = code >> n & 1;
  return all;
}
// The names of the set flags, such as ", symmetric, bounded", to append to a context.
inline std::string text_of(std::initializer_list<std::pair<const char*, bool>> flags) {
  std::string text;
  for (const auto& [name, is_set] : flags)
    if (is_set) text += std::string(", ") + name;
  return text;
}

enum class Values {
  kIntegers,    // -2 .. 2: inner products and squared distances are exact and tie often
  kExactNorms,  // rows whose norm is a power of two or zero, so that cosine similarities are exact as well
  kReals,       // (-1, 1)
};

template <class T>
std::vector<T> make_rows(Values values, int64_t count, int64_t depth, Random& random) {
  std::vector<T> x(count * depth);
  if (values != Values::kExactNorms) {
    for (T& value : x) value = values == Values::kIntegers ? T(random.below(5) - 2) : T(2 * random.unit() - 1);
    return x;
  }
  for (int64_t i = 0; i < count; ++i) {
    // 1, 4 or 16 entries of +-1, times 1, 2 or 4. One row in sixteen is zero: its cosine similarities are 0.
    if (random.below(16) == 0) continue;
    const int64_t choices = depth >= 16 ? 3 : depth >= 4 ? 2 : 1;
    const int64_t entries = int64_t{1} << (2 * random.below(choices));
    const T scale = T(int64_t{1} << random.below(3));
    for (int64_t placed = 0; placed < entries;) {
      // Most entries are in a few columns, or all rows of a large depth would be orthogonal.
      T& value = x[i * depth + random.below(random.below(4) ? std::min<int64_t>(depth, entries + 3) : depth)];
      if (value != T(0)) continue;
      value = random.below(2) ? scale : -scale;
      ++placed;
    }
  }
  return x;
}

// Reals of many magnitudes, with some zeros. `special` adds a few NaNs, infinities and numbers whose squares overflow.
template <class T>
std::vector<T> rough_rows(int64_t count, int64_t depth, bool special, Random& random) {
  std::vector<T> x = make_rows<T>(Values::kReals, count, depth, random);
  const T specials[] = {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity(),
                        -std::numeric_limits<T>::infinity(), std::numeric_limits<T>::max(),
                        std::numeric_limits<T>::denorm_min()};
  for (T& value : x) {
    value *= std::ldexp(T(1), static_cast<int>(random.below(12)) - 6);
    if (random.below(16) == 0) value = T(0);
    if (special && random.below(64) == 0) value = specials[random.below(5)];
  }
  return x;
}

enum class Labels { kRandom, kPairsSorted, kDescending, kOneClass, kAllDistinct, kExtreme };
inline constexpr Labels kLabels[] = {Labels::kRandom,   Labels::kPairsSorted, Labels::kDescending,
                                     Labels::kOneClass, Labels::kAllDistinct, Labels::kExtreme};

inline std::vector<int64_t> make_labels(Labels kind, int64_t count, Random& random) {
  constexpr int64_t low = std::numeric_limits<int64_t>::min(), high = std::numeric_limits<int64_t>::max();
  const int64_t extremes[] = {low, -1, 0, high};
  std::vector<int64_t> label(count);
  for (int64_t i = 0; i < count; ++i) {
    switch (kind) {
      case Labels::kRandom:
        label[i] = random.below(count / 5 + 2);
        break;
      case Labels::kPairsSorted:
        label[i] = i / 2;
        break;
      case Labels::kDescending:
        label[i] = (count - i) / 7;
        break;
      case Labels::kOneClass:
        label[i] = 3;
        break;
      case Labels::kAllDistinct:
        label[i] = i;
        break;
      case Labels::kExtreme:
        label[i] = extremes[random.below(4)];
        break;
    }
  }
  if (kind == Labels::kAllDistinct) random.shuffle(label);
  return label;
}

template <class T>
struct Batch {
  int64_t count, depth;
  std::vector<T> x;            // [count, depth]
  std::vector<int64_t> label;  // [count]

  Batch(Values values, Labels labels, int64_t count, int64_t depth, Random& random)
      : count(count),
        depth(depth),
        x(make_rows<T>(values, count, depth, random)),
        label(make_labels(labels, count, random)) {}
  LabeledMatrix<T> view() const { return {x.data(), label.data(), count}; }
  T* row(int64_t i) { return x.data() + i * depth; }
};

}  // namespace hardmine::test
