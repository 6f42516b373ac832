// A candidate pair as one anchor sees it, and the one total order of candidates that every backend uses.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace hardmine {

// Row numbers are 32 bits wide inside the engine: 2^31 rows of even one float are more than an N^2 op can ever serve.
using Index = int32_t;

// What a running best starts from, besides a key: neither is a candidate. At an equal key, every real index beats the
// first, so that its key itself may be selected; none beats the second.
inline constexpr Index kAtLowerBound = INT32_MAX;
inline constexpr Index kBelowRange = -1;

// The longest list of candidates that is kept for a row.
inline constexpr int64_t kMaxNeighbors = 1024;

// True for the index of a real candidate.
HARDMINE_HD bool is_candidate(Index index) { return index != kAtLowerBound && index >= 0; }

// The total order: the larger key wins, the lower index wins a tie. A NaN key never wins. The order is total over
// distinct indices, so that a maximum over any split of the candidates, merged in any order, is the same one.
template <class T>
HARDMINE_HD bool beats(T key, Index index, T best_key, Index best_index) {
  return key > best_key || (key == best_key && index < best_index);
}

// A candidate of a float key as one integer, larger where the candidate beats, so that the best of many is an integer
// maximum, which any number of threads may take in any order. The sign of a zero key is lost; a NaN key has no place in
// the order.
HARDMINE_HD uint64_t packed_candidate(float key, Index index) {
  key += 0.0f;  // -0 becomes 0
  uint32_t bits;
  memcpy(&bits, &key, sizeof bits);
  // Floats of equal sign are ordered as their bits are, or, if negative, the other way round.
  const uint32_t rank = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(rank) << 32 | (static_cast<uint32_t>(INT32_MAX) - static_cast<uint32_t>(index));
}
HARDMINE_HD Index index_of_packed(uint64_t packed) {
  return static_cast<Index>(static_cast<uint32_t>(INT32_MAX) - static_cast<uint32_t>(packed));
}
HARDMINE_HD float key_of_packed(uint64_t packed) {
  const uint32_t rank = static_cast<uint32_t>(packed >> 32);
  const uint32_t bits = rank & 0x80000000u ? rank & 0x7fffffffu : ~rank;
  float key;
  memcpy(&key, &bits, sizeof key);
  return key;
}

}  // namespace hardmine
