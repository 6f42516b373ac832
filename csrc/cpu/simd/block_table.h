// Tiles as the engine uses them: the shape of a micro-tile, packing, and blocks of scores.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

template <class T>
struct TileKernels {
  int64_t micro_tile_rows;
  int64_t panel_columns;  // columns of a micro-tile

  // Packs sorted rows [begin, end) into groups of `group` rows (see PackedMatrix). `begin` is a multiple of `group`.
  // Row r is x[permutation[r]] / norm[permutation[r]], or x[permutation[r]] if `norm` is null.
  void (*pack)(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t count, int64_t begin,
               int64_t end, int64_t group, T* out);

  // Writes scores [rows][kMaxBlockColumns]: the score of each pair of `kind`, and NaN for other pairs and for the
  // padding of each row to a multiple of 32.
  void (*fill_block)(const PairwiseParams<T>& params, PairKind kind, const Block& block, T* scores);

  // The score of rows a and b, equal to the bit to that of a tile. The norms are null if rows are not normalized.
  T (*pair_score)(const T* a, const T* b, const T* a_norm, const T* b_norm, int64_t depth, bool euclidean,
                  bool hyperbolic);
};

}  // namespace hardmine::cpu
