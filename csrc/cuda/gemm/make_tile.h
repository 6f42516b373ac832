// The numbers of a tile, from the packed rows of its two sides.
#pragma once

#include "cuda/gemm/packed_rows.h"
#include "cuda/gemm/tile_engine.h"

namespace hardmine::cuda {

// A product of two rows, normalized_product. The scales are multiplied first: a pair then has the same number whichever
// of its rows is the tile's row.
template <class acc_t>
__device__ __forceinline__ acc_t normalized_product(acc_t product, acc_t row_inv_norm, acc_t column_inv_norm) {
  return product * (row_inv_norm * column_inv_norm);
}

namespace tile_engine {

template <class Arithmetic>
__device__ __forceinline__ void apply_inv_norms(const PackedRows<Arithmetic>& rows,
                                                const PackedRows<Arithmetic>& columns, int64_t first_row,
                                                int64_t first_column, Fragment<Arithmetic>& fragment) {
  using acc_t = typename Arithmetic::acc_t;
  acc_t row_inv_norm[Arithmetic::kRows];
#pragma unroll
  for (int r = 0; r < Arithmetic::kRows; ++r) {
    const int64_t row = first_row + Arithmetic::row(r);
    row_inv_norm[r] = row < rows.count ? rows.inv_norm[row] : acc_t(0);
  }
#pragma unroll
  for (int c = 0; c < Arithmetic::kColumns; ++c) {
    const int64_t column = first_column + Arithmetic::column(c);
    const acc_t column_inv_norm = column < columns.count ? columns.inv_norm[column] : acc_t(0);
#pragma unroll
    for (int r = 0; r < Arithmetic::kRows; ++r)
      fragment.at[r][c] = normalized_product(fragment.at[r][c], row_inv_norm[r], column_inv_norm);
  }
}

}  // namespace tile_engine

// Fills `fragment` with the numbers of a panel of rows against one of columns. All threads of the block call it, with
// the first kSharedBytes of the block's shared memory, which nobody uses any more when it returns.
template <class Arithmetic>
__device__ __forceinline__ void make_tile(const PackedRows<Arithmetic>& rows, const PackedRows<Arithmetic>& columns,
                                          int64_t row_panel, int64_t column_panel, Fragment<Arithmetic>& fragment) {
  multiply_panels<Arithmetic>(rows.panel(row_panel), columns.panel(column_panel), stages_of<Arithmetic>(rows.depth),
                              shared_memory(), fragment);
  if (rows.inv_norm)
    tile_engine::apply_inv_norms(rows, columns, row_panel * Arithmetic::kTile, column_panel * Arithmetic::kTile,
                                 fragment);
}

// The numbers of a row and 32 columns from `first_column`, a multiple of 32, on: one a lane, with the bits that tiles
// have. All lanes of a warp call it; `line` is 32 numbers of shared memory that only they use.
template <class Arithmetic>
__device__ __forceinline__ typename Arithmetic::acc_t make_row(const PackedRows<Arithmetic>& rows,
                                                               const PackedRows<Arithmetic>& columns, int64_t row,
                                                               int64_t first_column, typename Arithmetic::acc_t* line) {
  constexpr int64_t kTile = Arithmetic::kTile;
  const auto sum =
      Arithmetic::row_sum(rows.panel(row / kTile), static_cast<int>(row % kTile), columns.panel(first_column / kTile),
                          static_cast<int>(first_column % kTile), rows.depth, line);
  const int64_t column = first_column + lane_index();
  return rows.inv_norm && column < columns.count ? normalized_product(sum, rows.inv_norm[row], columns.inv_norm[column])
                                                 : sum;
}

}  // namespace hardmine::cuda
