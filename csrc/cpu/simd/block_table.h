// Tiles as the engine sees them: the shape of a micro-tile, packing for it, and blocks of tiles.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

template <class T>
struct TileKernels {
  int64_t micro_tile_rows;  // rows of a micro-tile
  int64_t panel_columns;    // columns of a micro-tile

  // Packs sorted rows [begin, end), begin a multiple of `group`, into groups (see PackedMatrix); row r is
  // x[permutation[r]] / norm[permutation[r]], or x[permutation[r]] where `norm` is null.
  void (*pack)(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t count, int64_t begin,
               int64_t end, int64_t group, T* out);

  // scores [rows][kMaxBlockColumns]: the tile's number of every pair of the block that is of that kind, NaN for the
  // others, up to a width that is the next multiple of 32.
  void (*fill_block)(const PairwiseParams<T>& params, PairKind kind, const Block& block, T* scores);

  // The number that tiles hold for the pair of rows a and b, to the bit. Their norms: null where tiles are made of the
  // rows as they are.
  T (*pair_score)(const T* a, const T* b, const T* a_norm, const T* b_norm, int64_t depth, bool euclidean);
};

}  // namespace hardmine::cpu
