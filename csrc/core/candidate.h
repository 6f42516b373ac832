// A candidate of an anchor, and the total order of candidates that every backend uses.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace hardmine {

// The index of a row. 32 bits suffice: no op of N^2 pairs can serve 2^31 rows.
using Index = int32_t;

// Sentinel indices that a running best starts from, with a key that bounds the selection. At an equal key every real
// index beats kAtLowerBound, so the bound itself may be selected. None beats kBelowRange, so the bound is excluded.
inline constexpr Index kAtLowerBound = INT32_MAX;
inline constexpr Index kBelowRange = -1;

// The largest k of a k-nearest-neighbors op.
inline constexpr int64_t kMaxNeighbors = 1024;

// False for the sentinels above.
HARDMINE_HD bool is_candidate(Index index) { return index != kAtLowerBound && index >= 0; }

// The larger key wins, and the lower index wins a tie. A NaN key never wins. The order is total over distinct indices,
// so the maximum does not depend on how the candidates are split or merged.
template <class T>
HARDMINE_HD bool beats(T key, Index index, T best_key, Index best_index) {
  return key > best_key || (key == best_key && index < best_index);
}

template <class T>
struct Neighbor {
  T key;
  Index index;
};

// Packs a float key and an index into one integer that is larger where the candidate beats. The best of many candidates
// is then an integer maximum, which threads may take in any order. The sign of a zero key is lost. NaN keys are not
// supported.
HARDMINE_HD uint64_t packed_candidate(float key, Index index) {
  key += 0.0f;  // -0 becomes 0
  uint32_t bits;
  memcpy(&bits, &key, sizeof bits);
  // The bits of positive floats ascend with their values, those of negative floats descend.
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
