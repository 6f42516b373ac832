// SIMD levels: the same engine source compiled once a level, and the table through which the active one is called.
#pragma once

#include <cstdint>

#include "../core/selection.h"

namespace hardmine::cpu {

// The best candidate so far of every row of a matrix, as parallel arrays.
template <class T>
struct BestPairs {
  T* key;
  Index* index;
  const T* upper;  // largest admissible key of every row; null if nothing is out of bounds
};

// Rows of a matrix, sorted by label, in the two layouts that the micro-kernel reads: element (row r, depth k) of a
// layout with groups of g rows is at [r / g][k][r % g]. Rows that fill up the last group are zero.
template <class T>
struct PackedRows {
  const T* groups;       // groups of Kernels<T>::row_group rows; null if this matrix is only ever the columns
  const T* panels;       // groups of Kernels<T>::column_panel rows; null if this matrix is only ever the rows
  const int64_t* label;  // ascending; padded with copies of the last label to a whole panel
  const Index* id;       // number of the row in the user's tensor; padded likewise
  int64_t count;
};

// The pairs (row, column) of a pass over the tiles, and what a tile holds.
template <class T>
struct PairPass {
  PackedRows<T> rows;
  PackedRows<T> columns;
  int64_t depth;
  bool symmetric;  // columns are the rows: each unordered pair is visited once and serves both its ends
  bool euclidean;  // tiles hold squared distances instead of inner products
};

// One of the selections that a pass serves: which pairs are its candidates, and the best of them so far.
template <class T>
struct Selecting {
  bool same_class;    // candidates have equal labels (positives), or different ones (negatives)
  bool largest_wins;  // in terms of the tile: the key is the tile's number, or its negative
  BestPairs<T> best;
};

// What one SIMD level provides. T is float or double.
template <class T>
struct Kernels {
  int64_t row_group;     // rows of a micro-tile
  int64_t column_panel;  // columns of a micro-tile

  // out[i] = |x_i|_2 (x is [count, depth], contiguous). Returns false if one is not finite.
  bool (*row_norms)(const T* x, int64_t count, int64_t depth, T* out);

  // Packs sorted rows [begin, end), begin a multiple of `group`, into groups (see PackedRows); row r is x[order[r]] /
  // scale[order[r]], or x[order[r]] where `scale` is null.
  void (*pack)(const T* x, int64_t depth, const Index* order, const T* scale, int64_t count, int64_t begin, int64_t end,
               int64_t group, T* out);

  // Visits the pairs of rows [row_begin, row_end) and columns [column_begin, column_end), both beginning on group
  // boundaries, and updates the best of every row, and of every column where the pass is symmetric, in each of 1 or 2
  // selections.
  void (*select_block)(const PairPass<T>& pass, const Selecting<T>* selections, int64_t selection_count,
                       int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end);

  // acc += weight * y, acc += weight * (y - x), |y - x|, and x . y, over `depth` elements.
  void (*add_scaled)(T* acc, T weight, const T* y, int64_t depth);
  void (*add_scaled_difference)(T* acc, T weight, const T* y, const T* x, int64_t depth);
  T (*distance)(const T* x, const T* y, int64_t depth);
  T (*dot)(const T* x, const T* y, int64_t depth);

  // acc[k] = (acc[k] - x[k] / norm * along) / norm: the gradient through x / |x|, `along` = acc . x / norm.
  void (*project)(T* acc, const T* x, T norm, T along, int64_t depth);
};

// The most rows that a block of select_block may have: what the tile buffer on its stack holds. The most selections.
inline constexpr int64_t kMaxBlockRows = 96;
inline constexpr int64_t kMaxSelections = 2;

enum class SimdLevel { kScalar, kAvx2, kAvx512, kNeon };

// The level in force: HARDMINE_SIMD where it is set, else the best that this CPU has. Decided once; throws
// std::runtime_error if HARDMINE_SIMD names an unknown level or one that this CPU or build lacks.
SimdLevel simd_level();
const char* simd_level_name();

template <class T>
const Kernels<T>& kernels();

}  // namespace hardmine::cpu
