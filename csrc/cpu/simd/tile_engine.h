// The tile engine: streams the scores of a block, tile by tile, through visitors. A score is the inner product or the
// squared distance of a row and a column.
//
// For each panel of columns the micro-kernel fills a strip of rows x kPanel scores, which stays in the first-level
// cache until the visitors have consumed it. A tile is kMicroTileRows rows of a strip. Rows and columns are sorted by
// label, so two comparisons decide whether all, none or some pairs of a tile are candidates. In the last case the tile
// is copied with NaN for the other pairs, since no visitor accepts NaN.
//
// Every SIMD target sums a score in the same order: fused multiply-adds over chunks of kDepthChunk, whose sums are
// added in turn. So all targets agree bit for bit, and equal rows give equal scores at any position.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "core/hyperbolic.h"
#include "cpu/simd/operands.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// The depth of one run of the micro-kernel. Its rows and columns fit the first-level cache (6 + 16 KiB with AVX2), and
// sums over a large depth consist of short sums, which keeps their rounding error small.
inline constexpr int64_t kDepthChunk = 256;

template <class T>
inline constexpr int64_t kPanel = kColumnVecs * Vec<T>::kLanes;

enum class TileKind : uint8_t { kSkip, kAll, kSome };

// The scores of kMicroTileRows rows and one panel of columns, over `depth` elements.
template <bool kEuclidean, class T>
inline __attribute__((always_inline)) void micro_kernel(const T* rows, const T* columns, int64_t depth, bool accumulate,
                                                        T* tile) {
  using V = Vec<T>;
  V acc[kMicroTileRows][kColumnVecs];
#pragma GCC unroll 16
  for (int64_t r = 0; r < kMicroTileRows; ++r)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kColumnVecs; ++v) acc[r][v] = V::zero();
  for (int64_t k = 0; k < depth; ++k) {
    V column[kColumnVecs];
#pragma GCC unroll 16
    for (int64_t v = 0; v < kColumnVecs; ++v) column[v] = V::load(columns + k * kPanel<T> + v * V::kLanes);
#pragma GCC unroll 16
    for (int64_t r = 0; r < kMicroTileRows; ++r) {
      const V row = V::broadcast(rows + k * kMicroTileRows + r);
#pragma GCC unroll 16
      for (int64_t v = 0; v < kColumnVecs; ++v) {
        if constexpr (kEuclidean) {
          const V difference = row - column[v];
          acc[r][v] = fma(difference, difference, acc[r][v]);
        } else {
          acc[r][v] = fma(row, column[v], acc[r][v]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t r = 0; r < kMicroTileRows; ++r)
#pragma GCC unroll 16
    for (int64_t v = 0; v < kColumnVecs; ++v) {
      T* out = tile + r * kPanel<T> + v * V::kLanes;
      (accumulate ? V::load(out) + acc[r][v] : acc[r][v]).store(out);
    }
}

// One score from rows as given, by the operations of packing and micro-kernel in their order. Equality to the bit with
// tiles requires this second copy of the arithmetic.
template <bool kEuclidean, class T>
inline T score_of_pair(const T* a, const T* b, const T* a_norm, const T* b_norm, int64_t depth) {
  constexpr int64_t kBlock = 16;
  static_assert(kDepthChunk % kBlock == 0);
  alignas(64) T x[kBlock], y[kBlock];
  T total = T(0), sum = T(0);
  for (int64_t k = 0; k < depth; k += kBlock) {
    const int64_t width = depth - k < kBlock ? depth - k : kBlock;
    if (a_norm) {  // normalized per block, so that the divisions are vectorized
      for (int64_t c = 0; c < width; ++c) x[c] = a[k + c] / *a_norm;
      for (int64_t c = 0; c < width; ++c) y[c] = b[k + c] / *b_norm;
    }
    const T *u = a_norm ? x : a + k, *v = a_norm ? y : b + k;
    for (int64_t c = 0; c < width; ++c) {
      if constexpr (kEuclidean) {
        const T difference = u[c] - v[c];
        sum = std::fma(difference, difference, sum);
      } else {
        sum = std::fma(u[c], v[c], sum);
      }
    }
    if ((k + kBlock) % kDepthChunk != 0 && k + kBlock < depth) continue;
    total = k < kDepthChunk ? sum : total + sum;
    sum = T(0);
  }
  return total;
}

template <class T>
T pair_score(const T* a, const T* b, const T* a_norm, const T* b_norm, int64_t depth, bool euclidean, bool hyperbolic) {
  if (hyperbolic)
    return hyperbolic_score(score_of_pair<true>(a, b, a_norm, b_norm, depth - 1), a[depth - 1], b[depth - 1]);
  return euclidean ? score_of_pair<true>(a, b, a_norm, b_norm, depth)
                   : score_of_pair<false>(a, b, a_norm, b_norm, depth);
}

// Decides from the corners of a tile which pairs are candidates: labels ascend along rows and columns.
template <class T>
inline TileKind classify(const PairwiseParams<T>& params, PairKind kind, int64_t row, int64_t row_end, int64_t column) {
  const int64_t column_end = column + kPanel<T>;
  if (params.symmetric && column_end - 1 <= row) return TileKind::kSkip;  // all pairs are (i, i) or visited as (j, i)
  const int64_t row_low = params.rows.label[row], row_high = params.rows.label[row_end - 1];
  const int64_t column_low = params.columns.label[column], column_high = params.columns.label[column_end - 1];
  const bool disjoint = row_high < column_low || column_high < row_low;
  const bool single = row_low == row_high && column_low == column_high && row_low == column_low;
  if (kind == PairKind::kSameClass ? disjoint : kind == PairKind::kOtherClass && single) return TileKind::kSkip;
  const bool whole = column_end <= params.columns.count && !(params.symmetric && column < row_end);
  const bool uniform = kind == PairKind::kAny || (kind == PairKind::kSameClass ? single : disjoint);
  return whole && uniform ? TileKind::kAll : TileKind::kSome;
}

// Copies a tile, with NaN for pairs that are not candidates. Labels ascend, so the columns of a row's class are a
// range, which only moves forward from row to row.
template <class T>
inline void copy_candidates(const PairwiseParams<T>& params, PairKind kind, int64_t row, int64_t row_end,
                            int64_t column, const T* tile, T* out) {
  constexpr int32_t kColumns = kPanel<T>;
  const bool any = kind == PairKind::kAny, same_class = kind == PairKind::kSameClass;
  const int64_t* label = params.columns.label + column;
  const int64_t left = params.columns.count - column;
  const int32_t end = left < kColumns ? static_cast<int32_t>(left) : kColumns;
  int32_t class_begin = 0, class_end = 0;
  for (int64_t i = row; i < row_end; ++i) {
    while (class_begin < end && label[class_begin] < params.rows.label[i]) ++class_begin;
    if (class_end < class_begin) class_end = class_begin;
    while (class_end < end && label[class_end] == params.rows.label[i]) ++class_end;
    // In a symmetric pass, columns up to the row itself are not candidates.
    const int64_t behind = i + 1 - column;
    const int32_t first = !params.symmetric || behind < 0 ? 0
                          : behind < kColumns             ? static_cast<int32_t>(behind)
                                                          : kColumns;
    const T* tile_row = tile + (i - row) * kPanel<T>;
    T* out_row = out + (i - row) * kPanel<T>;
    for (int32_t c = 0; c < kColumns; ++c) {
      const bool in_class = (c >= class_begin) & (c < class_end);
      const bool candidate = (c >= first) & (c < end) & (any | (in_class == same_class));
      out_row[c] = candidate ? tile_row[c] : std::numeric_limits<T>::quiet_NaN();
    }
  }
}

// The position in excluded.column of the first excluded column of a row that is not below `column`.
inline Index first_excluded(const ExcludedPairs& excluded, int64_t row, int64_t column) {
  return partition_point(excluded.begin[row], excluded.end[row], [&](Index e) { return excluded.column[e] < column; });
}

// True if a tile holds an excluded pair. Most tiles hold none, which the bounds of their micro-tile's rows show.
template <class T>
__attribute__((noinline)) bool holds_excluded(const ExcludedPairs& excluded, int64_t row, int64_t row_end,
                                              int64_t column) {
  const int64_t micro_tile = row / kMicroTileRows, column_end = column + kPanel<T>;
  if (excluded.max_column[micro_tile] < column || excluded.min_column[micro_tile] >= column_end) return false;
  for (int64_t i = row; i < row_end; ++i) {
    const Index e = first_excluded(excluded, i, column);
    if (e < excluded.end[i] && excluded.column[e] < column_end) return true;
  }
  return false;
}

// Overwrites the excluded pairs of a tile with NaN.
template <class T>
__attribute__((noinline)) void overwrite_excluded(const ExcludedPairs& excluded, int64_t row, int64_t row_end,
                                                  int64_t column, T* tile) {
  for (int64_t i = row; i < row_end; ++i)
    for (Index e = first_excluded(excluded, i, column); e < excluded.end[i] && excluded.column[e] < column + kPanel<T>;
         ++e)
      tile[(i - row) * kPanel<T> + excluded.column[e] - column] = std::numeric_limits<T>::quiet_NaN();
}

// Makes the hyperbolic scores of a tile from its squared distances, and the gaps of its rows and columns.
template <class T>
__attribute__((noinline)) void scale_tile(const T* row_gaps, const T* column_gaps, T* tile) {
  for (int64_t r = 0; r < kMicroTileRows; ++r)
    for (int64_t c = 0; c < kPanel<T>; ++c)
      tile[r * kPanel<T> + c] = hyperbolic_score(tile[r * kPanel<T> + c], row_gaps[r], column_gaps[c]);
}

// A visitor of tiles: the pairs that it wants, and a function that consumes a tile. The call through a pointer costs
// little beside a tile's arithmetic, and saves compiling the engine once per combination of visitors.
template <class T>
struct TileVisitor {
  PairKind kind;
  void (*visit)(const void* self, const T* tile, int64_t row, int64_t row_end, int64_t column);
  const void* self;
};

inline constexpr int64_t kMaxVisitors = 2;

// Streams the tiles of a block through up to kMaxVisitors visitors.
template <bool kEuclidean, class T>
inline void visit_block(const PairwiseParams<T>& params, const TileVisitor<T>* visitors, int64_t visitor_count,
                        int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) {
  constexpr int64_t kTile = kMicroTileRows * kPanel<T>;
  alignas(64) T strip[kMaxBlockRows * kPanel<T>];
  alignas(64) T candidates[kTile];
  TileKind kinds[kMaxBlockRows / kMicroTileRows][kMaxVisitors];
  bool needed[kMaxBlockRows / kMicroTileRows], excludes[kMaxBlockRows / kMicroTileRows];
  const auto group_end = [&](int64_t row) { return row + kMicroTileRows < row_end ? row + kMicroTileRows : row_end; };
  for (int64_t column = column_begin; column < column_end; column += kPanel<T>) {
    for (int64_t row = row_begin, g = 0; row < row_end; row += kMicroTileRows, ++g) {
      needed[g] = false;
      for (int64_t v = 0; v < visitor_count; ++v) {
        kinds[g][v] = classify(params, visitors[v].kind, row, group_end(row), column);
        needed[g] |= kinds[g][v] != TileKind::kSkip;
      }
      excludes[g] = needed[g] && params.excluded && holds_excluded<T>(*params.excluded, row, group_end(row), column);
    }
    const T* panel = params.columns.panels + column * params.depth;
    const int64_t depth = params.hyperbolic ? params.depth - 1 : params.depth;
    for (int64_t k = 0; k < depth; k += kDepthChunk) {
      const int64_t chunk = depth - k < kDepthChunk ? depth - k : kDepthChunk;
      for (int64_t row = row_begin, g = 0; row < row_end; row += kMicroTileRows, ++g) {
        if (!needed[g]) continue;
        micro_kernel<kEuclidean>(params.rows.groups + row * params.depth + k * kMicroTileRows, panel + k * kPanel<T>,
                                 chunk, k > 0, strip + g * kTile);
      }
    }
    for (int64_t row = row_begin, g = 0; row < row_end; row += kMicroTileRows, ++g) {
      if (kEuclidean && params.hyperbolic && needed[g])
        scale_tile(params.rows.groups + row * params.depth + depth * kMicroTileRows, panel + depth * kPanel<T>,
                   strip + g * kTile);
      for (int64_t v = 0; v < visitor_count; ++v) {
        const TileVisitor<T>& visitor = visitors[v];
        const T* tile = strip + g * kTile;
        if (kinds[g][v] == TileKind::kSkip) continue;
        if (kinds[g][v] == TileKind::kSome || excludes[g]) {
          copy_candidates(params, visitor.kind, row, group_end(row), column, tile, candidates);
          if (excludes[g]) overwrite_excluded(*params.excluded, row, group_end(row), column, candidates);
          tile = candidates;
        }
        visitor.visit(visitor.self, tile, row, group_end(row), column);
      }
    }
  }
}

// Inlined, so that the compiler specializes the above for a single visitor.
template <class T>
inline __attribute__((always_inline)) void visit_block(const PairwiseParams<T>& params, const TileVisitor<T>* visitors,
                                                       int64_t visitor_count, int64_t row_begin, int64_t row_end,
                                                       int64_t column_begin, int64_t column_end) {
  if (params.euclidean) {
    visit_block<true>(params, visitors, visitor_count, row_begin, row_end, column_begin, column_end);
  } else {
    visit_block<false>(params, visitors, visitor_count, row_begin, row_end, column_begin, column_end);
  }
}

}  // namespace hardmine::cpu::HARDMINE_TARGET
