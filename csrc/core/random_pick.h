// The choice of one candidate by a uniform number u in [0, 1): of `count` candidates in ascending order of index, the
// floor(u count)-th. So a list of numbers, one an anchor, fixes a random selection, whatever the backend and its
// threads.
#pragma once

#include <cstdint>

#include "core/candidate.h"

namespace hardmine {

// The uniform numbers in [0, 1), one an anchor, that a random selection picks by; null for one that is not random.
struct RandomNumbers {
  const double* positive = nullptr;
  const double* negative = nullptr;
};

// floor(u count), within [0, count) for any `u`: u = 1, which rounding may produce, picks the last of the candidates.
HARDMINE_HD Index drawn_rank(double u, Index count) {
  const double rank = u * static_cast<double>(count);
  if (!(rank > 0)) return 0;  // NaN too
  return rank < static_cast<double>(count - 1) ? static_cast<Index>(rank) : count - 1;
}

// Where the rank-th positive lies among rows sorted by (label, index), in which its class begins at `begin`. `self` is
// where the anchor lies, which is never its own positive; -1 if it is not among the rows.
HARDMINE_HD int64_t ranked_positive(int64_t begin, Index rank, int64_t self) {
  const int64_t place = begin + rank;
  return self >= 0 && place >= self ? place + 1 : place;
}

// The rank-th index that is not in `own`: the `count` ascending indices of the anchor's class. Below own[j] lie
// own[j] - j indices of other classes, which never decreases in j, so the own indices below the answer are found by
// bisection.
HARDMINE_HD Index ranked_negative(const Index* own, Index count, Index rank) {
  Index low = 0, high = count;
  while (low < high) {
    const Index middle = low + (high - low) / 2;
    if (own[middle] - middle <= rank) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return rank + low;
}

}  // namespace hardmine
