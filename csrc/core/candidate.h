// A candidate pair as one anchor sees it, and the one total order of candidates that every backend uses.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace hardmine {

// Row numbers are 32 bits wide inside the engine: 2^31 rows of even one float are more than an N^2 op can ever serve.
using Index = int32_t;

// What a running best starts from, besides a key: neither is a candidate. At an equal key, every real index beats the
// first, so that its key itself may be selected; none beats the second.
inline constexpr Index kAtLowerBound = INT32_MAX;
inline constexpr Index kBelowRange = -1;

// True for the index of a real candidate.
HARDMINE_HD bool is_candidate(Index index) { return index != kAtLowerBound && index >= 0; }

// The total order: the larger key wins, the lower index wins a tie. A NaN key never wins. The order is total over
// distinct indices, so that a maximum over any split of the candidates, merged in any order, is the same one.
template <class T>
HARDMINE_HD bool beats(T key, Index index, T best_key, Index best_index) {
  return key > best_key || (key == best_key && index < best_index);
}

}  // namespace hardmine
