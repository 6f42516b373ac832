// SIMD levels: the same engine source compiled once a level, and the table through which the active one is called.
#pragma once

#include <cstdint>

#include "core/int_math.h"
#include "core/selection.h"

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

// Which pairs a pass wants.
enum class PairKind : uint8_t { kSameClass, kOtherClass, kAny };

// A block of a pass: rows [row_begin, row_end) and columns [column_begin, column_end), at most kMaxBlockRows and
// kMaxBlockColumns of them, both beginning at multiples of kBlockStep.
struct Block {
  int64_t row_begin, row_end, column_begin, column_end;
  HARDMINE_HD int64_t rows() const { return row_end - row_begin; }
  HARDMINE_HD int64_t columns() const { return column_end - column_begin; }
};
inline constexpr int64_t kBlockStep = 96;  // a multiple of every level's row group and column panel
inline constexpr int64_t kMaxBlockRows = 96;
inline constexpr int64_t kMaxBlockColumns = 192;

// The sums that a log-sum-exp over the pairs of a pass needs: exp2((s - shift) scale) of every pair, added up for its
// row and, where column_sum is not null, for its column. s is the similarity, `scale` log2(e) / temperature.
template <class T>
struct ExponentialSums {
  T scale;
  T shift;                // of all rows and columns, if row_shift is null
  const T* row_shift;     // one a row
  const T* column_shift;  // one a column
  double* row_sum;
  double* column_sum;
};

// softplus(x), x = (shift - s) / temperature + log_sum, of every pair of equal labels and s <= limit, added up
// likewise, with its slope sigmoid(x), and the number of pairs.
template <class T>
struct SoftplusSums {
  T inverse_temperature;
  T limit;  // largest admissible number in the order of similarities (core/selection.h)
  const T* row_shift;
  const T* column_shift;
  const T* row_log_sum;
  const T* column_log_sum;
  double* row_sum;
  double* column_sum;  // null, like the other two: not wanted
  double* row_slope;
  double* column_slope;
  int64_t* row_count;
  int64_t* column_count;
};

// What one side of a pair, its row or its column, contributes to the derivative of the tuplet losses with respect to
// the pair's similarity s, if it is the anchor.
template <class T>
struct TupletAnchors {
  // If the other side is a negative: negative_weight exp2((s - shift) scale).
  const T* negative_weight;
  const T* shift;
  // If it is a positive: -positive_weight sigmoid((shift - s) / temperature + log_sum) with all positives, else
  // -positive_weight if it is the selected one.
  const T* positive_weight;
  const T* log_sum;
  const Index* positive;  // the selected one's number, or null
};

template <class T>
struct TupletWeights {
  T scale;
  T inverse_temperature;
  bool one_shift;  // all shifts are this one
  T shift;
  T limit;
  TupletAnchors<T> rows;
  TupletAnchors<T> columns;  // used where the pass is symmetric
};

// The best candidates of every row so far, each row's in a pool of its own: the k best of all that it has seen are
// among them. A full pool is compacted to its k best; the k-th of them, `worst`, is what a later candidate has to beat.
template <class T>
struct Neighbor {
  T key;
  Index index;
};
template <class T>
struct NeighborPools {
  int64_t k;
  int64_t capacity;   // > k
  Neighbor<T>* pool;  // [rows][capacity]
  int32_t* size;
  T* worst_key;  // -infinity until the first compaction
  Index* worst_index;
  void (*compact)(const NeighborPools& pools, int64_t row);
};

// What a pass of the batch-all triplet loss works on. In terms of v, which grows with the similarity - s of unit rows,
// -|a - b|^2 / 2, or -|a - b| / 2 - a triplet's value is max(0, v_an + margin / 2 - v_ap).
template <class T>
struct BatchAllState {
  // The anchors' positives: v of entry first[i] + p is that of sorted row i and the p-th row of its class, +infinity
  // for itself. Rows that are no anchors of this pass have size 0.
  const int64_t* first;
  const int32_t* size;
  const int64_t* class_begin;  // the first sorted row of every row's class
  const T* positive;
  const T* least;  // the smallest v of every row's positives
  // Of rows with more than kShortList entries also ascending, with the sums of all before.
  const T* ascending;
  const double* sum_before;
  // Active triplets of every entry. While negatives are visited, a long list's entry e counts those negatives whose
  // active positives are the first e + 1 in ascending order.
  int32_t* active;

  T half_margin;
  double exact_half_margin;
  const T* margin_table;     // margin_table[table_row[anchor] * table_rows + table_row[negative]] instead, if not null
  const int32_t* table_row;  // [rows]
  int64_t table_rows;
  bool squared;
  double* value;  // sum of every anchor's triplets
  bool need_weights;
};
inline constexpr int32_t kShortList = 32;

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

  // Offers the block's pairs to their rows and, where the pass is symmetric, to their columns.
  void (*knn_block)(const PairPass<T>& pass, const Block& block, const NeighborPools<T>& pools);

  // numbers [rows][kMaxBlockColumns]: the tile's number of every pair of the block that is of that kind, NaN for the
  // others, up to a width that is the next multiple of 32.
  void (*fill_block)(const PairPass<T>& pass, PairKind kind, const Block& block, T* numbers);

  // What becomes of a filled block (of other-class pairs, of same-class pairs, and of all pairs, in turn).
  // tuplet_weights replaces each number by the derivative of the loss with respect to the pair's similarity - divided
  // by the distance where the pass is Euclidean - and fills up with zeros what `accumulate` reads.
  void (*exponential_sums)(const PairPass<T>& pass, const Block& block, const T* numbers,
                           const ExponentialSums<T>& sums);
  void (*softplus_sums)(const PairPass<T>& pass, const Block& block, const T* numbers, const SoftplusSums<T>& sums);
  void (*tuplet_weights)(const PairPass<T>& pass, const Block& block, const TupletWeights<T>& weights, T* numbers);

  // Replaces the numbers of a block of other-class pairs by the weights of the gradient of all triplets' sum (see
  // block_gradient.h); returns false if all are 0. `scratch` has room for [kMaxBlockColumns][kMaxBlockRows] numbers.
  bool (*batch_all_negatives)(const PairPass<T>& pass, const Block& block, const BatchAllState<T>& state, T* numbers,
                              T* scratch);
  // Likewise those of a block of same-class pairs, from the numbers of active triplets of each.
  void (*batch_all_positives)(const PairPass<T>& pass, const Block& block, const BatchAllState<T>& state, T* numbers);

  // Packs sorted rows [begin, end), scaled as by `pack`, into panels of depth: element (row r, depth k) is at out[k /
  // column_panel][r][k % column_panel], with `padded` rows a panel.
  void (*pack_depth)(const T* x, int64_t depth, const Index* order, const T* scale, int64_t padded, int64_t begin,
                     int64_t end, T* out);

  // grad[row] += sum over columns of weights[row][column] value[column], or with `transposed` grad[column] += sum over
  // rows of weights[row][column] value[row]; with `own`, of differences to that instead, value[column] - own[row]. All
  // are in panels of depth, and point at the block's first row; `own` is laid out as grad.
  void (*accumulate)(const Block& block, const T* weights, bool transposed, int64_t depth, const T* value,
                     int64_t value_padded, const T* own, T* grad, int64_t grad_padded);

  // The number that tiles hold for the pair of rows a and b, to the bit. Their norms: null where tiles are made of the
  // rows as they are.
  T (*tile_number)(const T* a, const T* b, const T* a_norm, const T* b_norm, int64_t depth, bool euclidean);

  // acc += weight * y, acc += weight * (y - x), |y - x|, its square, and x . y, over `depth` elements.
  void (*add_scaled)(T* acc, T weight, const T* y, int64_t depth);
  void (*add_scaled_difference)(T* acc, T weight, const T* y, const T* x, int64_t depth);
  T (*distance)(const T* x, const T* y, int64_t depth);
  T (*squared_distance)(const T* x, const T* y, int64_t depth);
  T (*dot)(const T* x, const T* y, int64_t depth);

  // out[i] = the squared distance between the query and row rows[i] of x, whose rows have `stride` elements, a multiple
  // of 16.
  void (*squared_distances)(const T* query, const T* x, int64_t stride, const uint32_t* rows, int64_t count, T* out);

  // acc[k] = (acc[k] - x[k] / norm * along) / norm: the gradient through x / |x|, `along` = acc . x / norm.
  void (*project)(T* acc, const T* x, T norm, T along, int64_t depth);
};

// The most selections that select_block serves.
inline constexpr int64_t kMaxSelections = 2;

enum class SimdLevel { kScalar, kAvx2, kAvx512, kNeon };

// The level in force: HARDMINE_SIMD where it is set, else the best that this CPU has. Decided once; throws
// std::runtime_error if HARDMINE_SIMD names an unknown level or one that this CPU or build lacks.
SimdLevel simd_level();
const char* simd_level_name();

template <class T>
const Kernels<T>& kernels();

}  // namespace hardmine::cpu
