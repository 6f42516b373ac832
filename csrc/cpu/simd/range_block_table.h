// The best negatives of a row within several ranges of keys, such as a semi-hard negative for each of its positives.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// A row with more ranges than this has a single level, see below.
inline constexpr int64_t kMaxRangeLevels = 64;

// The ranges of keys of every sorted row, ascending: row r has entries [first[r], first[r + 1]). A best candidate
// starts as the lower bound of its range, so bests ascend, too.
//
// Levels are for columns of a symmetric pass, which are compared with a row at once: level l holds the l-th range of
// each column. The single level of a column with many ranges has its first best candidate and its last upper bound.
template <class T>
struct RangedNegatives {
  const int64_t* first;  // [rows + 1]
  const T* upper;        // per range: the largest admissible key
  T* key;                // per range: the best candidate so far
  Index* index;
  const Index* levels;   // [rows], padded to whole blocks: the row's number of levels
  const T* last_upper;   // [rows], padded likewise: the upper bound of the last range; -infinity if there is none
  const T* level_upper;  // [levels, stride]; where a row has no such level, -infinity
  T* level_key;          // [levels, stride]
  int64_t stride;
};

template <class T>
struct RangeKernels {
  // Updates the best candidates by a block of other-class scores (TileKernels::fill_block): those of its rows and, if
  // the pass is symmetric, of its columns.
  void (*select_in_ranges)(const PairwiseParams<T>& params, const Block& block, const T* scores,
                           const RangedNegatives<T>& best);
};

}  // namespace hardmine::cpu
