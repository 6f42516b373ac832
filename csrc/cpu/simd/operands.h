// The operands of all pairwise kernels: two packed matrices, and a block of their pairs.
#pragma once

#include <cstdint>

#include "core/candidate.h"
#include "core/host_device.h"

namespace hardmine::cpu {

// A matrix whose rows are sorted by label, in the two layouts that the micro-kernel reads. In a layout with groups of g
// rows, element (row r, depth k) is at [r / g][k][r % g]. The padding rows of the last group are zero.
template <class T>
struct PackedMatrix {
  const T* groups;       // groups of TileKernels<T>::micro_tile_rows rows; null if used as columns only
  const T* panels;       // groups of TileKernels<T>::panel_columns rows; null if used as rows only
  const int64_t* label;  // ascending; padded to a whole panel with copies of the last label
  const Index* id;       // the row of the input; padded likewise
  int64_t count;
};

// The pairs (row, column) that are no candidates, whatever their labels: per row, ascending columns.
struct ExcludedPairs {
  const Index* begin;  // [rows]: the columns of a row are column[begin[row]] up to, not including, column[end[row]]
  const Index* end;    // [rows]
  const Index* column;
  // The smallest and the largest of these columns per micro-tile of rows; kAtLowerBound and -1 if it has none.
  const Index* min_column;
  const Index* max_column;
};

// The parameters of a pass over all pairs (row, column).
template <class T>
struct PairwiseParams {
  PackedMatrix<T> rows;
  PackedMatrix<T> columns;
  int64_t depth;
  bool symmetric;  // columns are the rows: each unordered pair is visited once, for both its endpoints
  bool euclidean;  // tiles hold squared distances instead of inner products
  // Distances are those of core/hyperbolic.h, and tiles hold their scores. The last element of each row is its gap.
  bool hyperbolic;
  const ExcludedPairs* excluded = nullptr;  // null: none
};

// The pairs that a visitor of tiles wants.
enum class PairKind : uint8_t { kSameClass, kOtherClass, kAny };

// Rows [row_begin, row_end) and columns [column_begin, column_end): at most kMaxBlockRows and kMaxBlockColumns, both
// starting at multiples of kBlockStep.
struct Block {
  int64_t row_begin, row_end, column_begin, column_end;
  HARDMINE_HD int64_t rows() const { return row_end - row_begin; }
  HARDMINE_HD int64_t columns() const { return column_end - column_begin; }
};
inline constexpr int64_t kBlockStep = 96;  // a multiple of every target's micro_tile_rows and panel_columns
inline constexpr int64_t kMaxBlockRows = 96;
inline constexpr int64_t kMaxBlockColumns = 192;

}  // namespace hardmine::cpu
