// What every kernel of pairs is given: two packed matrices, and a block of their pairs.
#pragma once

#include <cstdint>

#include "core/candidate.h"
#include "core/host_device.h"

namespace hardmine::cpu {

// Rows of a matrix, sorted by label, in the two layouts that the micro-kernel reads: element (row r, depth k) of a
// layout with groups of g rows is at [r / g][k][r % g]. Rows that fill up the last group are zero.
template <class T>
struct PackedMatrix {
  const T* groups;       // groups of TileKernels<T>::micro_tile_rows rows; null if this matrix is only ever the columns
  const T* panels;       // groups of TileKernels<T>::panel_columns rows; null if this matrix is only ever the rows
  const int64_t* label;  // ascending; padded with copies of the last label to a whole panel
  const Index* id;       // number of the row in the user's tensor; padded likewise
  int64_t count;
};

// The pairs (row, column) of a pass over the tiles, and what a tile holds.
template <class T>
struct PairwiseParams {
  PackedMatrix<T> rows;
  PackedMatrix<T> columns;
  int64_t depth;
  bool symmetric;  // columns are the rows: each unordered pair is visited once and serves both its ends
  bool euclidean;  // tiles hold squared distances instead of inner products
};

// Which pairs a pass wants.
enum class PairKind : uint8_t { kSameClass, kOtherClass, kAny };

// A block of a pass: rows [row_begin, row_end) and columns [column_begin, column_end), at most kMaxBlockRows and
// kMaxBlockColumns of them, both beginning at multiples of kBlockStep.
struct Block {
  int64_t row_begin, row_end, column_begin, column_end;
  HARDMINE_HD int64_t rows() const { return row_end - row_begin; }
  HARDMINE_HD int64_t columns() const { return column_end - column_begin; }
};
inline constexpr int64_t kBlockStep = 96;  // a multiple of every target's row group and column panel
inline constexpr int64_t kMaxBlockRows = 96;
inline constexpr int64_t kMaxBlockColumns = 192;

}  // namespace hardmine::cpu
