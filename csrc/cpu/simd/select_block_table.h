// Selection: the best candidate of every row of a block, and of every column where the pass is symmetric.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// The best candidate so far of every row of a matrix, as parallel arrays.
template <class T>
struct SelectionState {
  T* key;
  Index* index;
  const T* upper;  // largest admissible key of every row; null if nothing is out of bounds
};

// One of the selections that a pass serves: which pairs are its candidates, and the best of them so far.
template <class T>
struct BlockSelection {
  bool same_class;    // candidates have equal labels (positives), or different ones (negatives)
  bool largest_wins;  // in terms of the tile: the key is the tile's number, or its negative
  SelectionState<T> best;
};

inline constexpr int64_t kMaxSelections = 2;  // that select_block serves

template <class T>
struct SelectKernels {
  // Visits the pairs of rows [row_begin, row_end) and columns [column_begin, column_end), both beginning on group
  // boundaries, and updates the best of every row, and of every column where the pass is symmetric, in each of 1 to
  // kMaxSelections selections.
  void (*select_block)(const PairwiseParams<T>& params, const BlockSelection<T>* selections, int64_t selection_count,
                       int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end);
};

}  // namespace hardmine::cpu
