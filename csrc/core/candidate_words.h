// A candidate as one or two int64, which parts of a selection exchange. Among several parts the lexicographically
// largest words are those of the best candidate, so the maximum per word merges any number of parts in any order.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/candidate.h"

namespace hardmine {

// A float key shares one word with its index; a double key has a word of its own before that of the index.
template <class T>
inline constexpr int64_t kCandidateWords = sizeof(T) / sizeof(float);

// All words of no candidate: below those of every candidate.
inline constexpr int64_t kNoCandidateWord = INT64_MIN;

template <class T>
struct KeyedIndex {
  T key;
  Index index;  // kBelowRange: no candidate
};

// The bits of a key as an integer that ascends with the key. Those of negative keys descend, so all but the sign are
// flipped, which is its own inverse.
template <class T>
using KeyBits = std::conditional_t<std::is_same_v<T, float>, int32_t, int64_t>;
template <class Bits>
HARDMINE_HD Bits flip_if_negative(Bits bits) {
  return bits < 0 ? bits ^ std::numeric_limits<Bits>::max() : bits;
}

// Writes words[0] and, for double, words[stride]. The sign of a zero key does not take part in comparisons, and is kept
// below the index.
template <class T>
HARDMINE_HD void write_candidate(T key, Index index, int64_t* words, int64_t stride) {
  using Bits = KeyBits<T>;
  if (!is_candidate(index)) {
    for (int64_t w = 0; w < kCandidateWords<T>; ++w) words[w * stride] = kNoCandidateWord;
    return;
  }
  const bool negative_zero = key == T(0) && std::signbit(key);
  Bits bits;
  memcpy(&bits, &key, sizeof bits);
  const int64_t order = negative_zero ? 0 : flip_if_negative(bits);
  const int64_t low = static_cast<int64_t>(INT32_MAX - index) * 2 + (negative_zero ? 1 : 0);
  if constexpr (std::is_same_v<T, float>) {
    words[0] = order * (int64_t{1} << 32) + low;
  } else {
    words[0] = order;
    words[stride] = low;
  }
}

template <class T>
HARDMINE_HD KeyedIndex<T> read_candidate(const int64_t* words, int64_t stride) {
  if (words[0] == kNoCandidateWord) return {T(0), kBelowRange};
  const bool is_float = std::is_same_v<T, float>;
  const int64_t low = is_float ? words[0] & 0xffffffff : words[stride];
  const int64_t order = is_float ? (words[0] - low) / (int64_t{1} << 32) : words[0];
  const KeyBits<T> bits = flip_if_negative(static_cast<KeyBits<T>>(order));
  T key;
  memcpy(&key, &bits, sizeof key);
  return {low % 2 ? -key : key, static_cast<Index>(INT32_MAX - low / 2)};
}

}  // namespace hardmine
