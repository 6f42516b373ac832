// Ranks of positives: per positive of a row, the number of negatives that beat it.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// The positives of every sorted row, best first: row r has entries [first[r], first[r + 1]).
template <class T>
struct RankedPositives {
  const int64_t* first;  // [rows + 1]
  const T* key;          // keys as in core/selection.h
  const Index* index;
  const T* worst;   // [rows], padded to whole blocks: the key of the last positive; infinity if there is none
  int64_t* passed;  // per positive: the negatives that beat it, but no better positive of its row
};

template <class T>
struct RankKernels {
  // Counts the negatives of a block of other-class scores (TileKernels::fill_block) for its rows and, if the pass is
  // symmetric, for its columns.
  void (*count_better_negatives)(const PairwiseParams<T>& params, const Block& block, const T* scores,
                                 const RankedPositives<T>& positives);
};

}  // namespace hardmine::cpu
