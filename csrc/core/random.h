// Random numbers without a state, and the choice of one candidate by such a number.
#pragma once

#include <cstdint>

#include "core/candidate.h"
#include "core/int_math.h"

namespace hardmine {

// Number `i` of the sequence of `seed` (splitmix64): 64 bits, each set with probability 1/2. A number depends on its
// position alone, so any number of threads may draw from one sequence.
HARDMINE_HD uint64_t random_bits(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0xD1342543DE82EF95 + (i + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// A number in [0, 1): one of the 2^53 multiples of 2^-53 there.
HARDMINE_HD double random_unit(uint64_t seed, uint64_t i) {
  return static_cast<double>(random_bits(seed, i) >> 11) * 0x1p-53;
}

// A uniform number u in [0, 1) selects, of `count` candidates in ascending order of index, the floor(u count)-th. One
// number per anchor thus fixes a random selection, whatever the backend and the number of threads.

// Uniform numbers in [0, 1) for random selections, one per anchor; null where the selection is not random.
struct RandomNumbers {
  const double* positive = nullptr;
  const double* negative = nullptr;
};

// floor(u count), clamped to [0, count): rounding may produce u = 1.
HARDMINE_HD Index drawn_rank(double u, Index count) {
  const double rank = u * static_cast<double>(count);
  if (!(rank > 0)) return 0;  // NaN too
  return rank < static_cast<double>(count - 1) ? static_cast<Index>(rank) : count - 1;
}

// The position of the rank-th positive among rows sorted by (label, index). The class begins at `begin`. `self` is the
// anchor's members position, which is skipped, or -1 if the anchor is not among the rows.
HARDMINE_HD int64_t ranked_positive(int64_t begin, Index rank, int64_t self) {
  const int64_t position = begin + rank;
  return self >= 0 && position >= self ? position + 1 : position;
}

// The rank-th index that is not in `members`, the `count` ascending indices of the anchor's class. members[j] - j
// indices of other classes lie below members[j]. That count never decreases in j, so a bisection finds the answer.
HARDMINE_HD Index ranked_negative(const Index* members, Index count, Index rank) {
  return rank + partition_point(Index{0}, count, [&](Index j) { return members[j] - j <= rank; });
}

}  // namespace hardmine
