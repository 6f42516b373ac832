// The numbers of a tile, from the packed rows of its two sides.
#pragma once

#include "cuda/gemm/packed_matrix.h"
#include "cuda/gemm/tile_engine.h"

namespace hardmine::cuda {

// A product of two rows, normalized_product. The scales are multiplied first: a pair then has the same number whichever
// of its rows is the tile's row.
template <class acc_t>
__device__ __forceinline__ acc_t normalized_product(acc_t product, acc_t row_inv_norm, acc_t column_inv_norm) {
  return product * (row_inv_norm * column_inv_norm);
}

namespace tile_engine {

template <class MmaPolicy>
__device__ __forceinline__ void apply_inv_norms(const PackedMatrix<MmaPolicy>& rows,
                                                const PackedMatrix<MmaPolicy>& columns, int64_t first_row,
                                                int64_t first_column, Fragment<MmaPolicy>& fragment) {
  using acc_t = typename MmaPolicy::acc_t;
  acc_t row_inv_norm[MmaPolicy::kRows];
#pragma unroll
  for (int r = 0; r < MmaPolicy::kRows; ++r) {
    const int64_t row = first_row + MmaPolicy::row(r);
    row_inv_norm[r] = row < rows.count ? rows.inv_norm[row] : acc_t(0);
  }
#pragma unroll
  for (int c = 0; c < MmaPolicy::kColumns; ++c) {
    const int64_t column = first_column + MmaPolicy::column(c);
    const acc_t column_inv_norm = column < columns.count ? columns.inv_norm[column] : acc_t(0);
#pragma unroll
    for (int r = 0; r < MmaPolicy::kRows; ++r)
      fragment.at[r][c] = normalized_product(fragment.at[r][c], row_inv_norm[r], column_inv_norm);
  }
}

}  // namespace tile_engine

// Fills `fragment` with the numbers of a panel of rows against one of columns. All threads of the block call it, with
// the first kSharedBytes of the block's shared memory, which nobody uses any more when it returns.
template <class MmaPolicy>
__device__ __forceinline__ void make_tile(const PackedMatrix<MmaPolicy>& rows, const PackedMatrix<MmaPolicy>& columns,
                                          int64_t row_panel, int64_t column_panel, Fragment<MmaPolicy>& fragment) {
  multiply_panels<MmaPolicy>(rows.panel(row_panel), columns.panel(column_panel), stages_of<MmaPolicy>(rows.depth),
                             shared_memory(), fragment);
  if (rows.inv_norm)
    tile_engine::apply_inv_norms(rows, columns, row_panel * MmaPolicy::kTile, column_panel * MmaPolicy::kTile,
                                 fragment);
}

// The numbers of a row and 32 columns from `first_column`, a multiple of 32, on: one a lane, with the bits that tiles
// have. All lanes of a warp call it; `scratch` is 32 numbers of shared memory that only they use.
template <class MmaPolicy>
__device__ __forceinline__ typename MmaPolicy::acc_t make_row(const PackedMatrix<MmaPolicy>& rows,
                                                              const PackedMatrix<MmaPolicy>& columns, int64_t row,
                                                              int64_t first_column,
                                                              typename MmaPolicy::acc_t* scratch) {
  constexpr int64_t kTile = MmaPolicy::kTile;
  const auto sum =
      MmaPolicy::row_sum(rows.panel(row / kTile), static_cast<int>(row % kTile), columns.panel(first_column / kTile),
                         static_cast<int>(first_column % kTile), rows.depth, scratch);
  const int64_t column = first_column + lane_index();
  return rows.inv_norm && column < columns.count ? normalized_product(sum, rows.inv_norm[row], columns.inv_norm[column])
                                                 : sum;
}

}  // namespace hardmine::cuda
