// Selection: the best candidate of each row of a block, and of each column if the pass is symmetric.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// The best candidate so far of each row of a matrix.
template <class T>
struct SelectionState {
  T* key;
  Index* index;
  const T* upper;  // the largest admissible key of each row; null without a bound
};

// A selection in a block: which pairs are candidates, and the best candidates so far.
template <class T>
struct BlockSelection {
  PairKind kind;      // of the candidates: kSameClass (positives) or kOtherClass (negatives)
  bool largest_wins;  // the key is the score, or else its negative
  SelectionState<T> best;
};

inline constexpr int64_t kMaxSelections = 2;  // of one call of select_block

template <class T>
struct SelectKernels {
  // Updates 1 to kMaxSelections selections by the pairs of rows [row_begin, row_end) and columns [column_begin,
  // column_end). Rows start at a multiple of micro_tile_rows, columns at a multiple of panel_columns.
  void (*select_block)(const PairwiseParams<T>& params, const BlockSelection<T>* selections, int64_t selection_count,
                       int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end);
};

}  // namespace hardmine::cpu
