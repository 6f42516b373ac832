// The numbers of a tile, from the packed rows of its two sides.
#pragma once

#include "cuda/gemm/packed_rows.h"
#include "cuda/gemm/tile_engine.h"

namespace hardmine::cuda {

// A product of two rows, scaled. The scales are multiplied first: a pair then has the same number whichever of its rows
// is the tile's row.
template <class Number>
__device__ __forceinline__ Number scaled(Number product, Number row_scale, Number column_scale) {
  return product * (row_scale * column_scale);
}

namespace tile_engine {

template <class Arithmetic>
__device__ __forceinline__ void scale(const PackedRows<Arithmetic>& rows, const PackedRows<Arithmetic>& columns,
                                      int64_t first_row, int64_t first_column, Fragment<Arithmetic>& fragment) {
  using Number = typename Arithmetic::Number;
  Number row_scale[Arithmetic::kRows];
#pragma unroll
  for (int r = 0; r < Arithmetic::kRows; ++r) {
    const int64_t row = first_row + Arithmetic::row(r);
    row_scale[r] = row < rows.count ? rows.scale[row] : Number(0);
  }
#pragma unroll
  for (int c = 0; c < Arithmetic::kColumns; ++c) {
    const int64_t column = first_column + Arithmetic::column(c);
    const Number column_scale = column < columns.count ? columns.scale[column] : Number(0);
#pragma unroll
    for (int r = 0; r < Arithmetic::kRows; ++r)
      fragment.at[r][c] = scaled(fragment.at[r][c], row_scale[r], column_scale);
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
  if (rows.scale)
    tile_engine::scale(rows, columns, row_panel * Arithmetic::kTile, column_panel * Arithmetic::kTile, fragment);
}

// The numbers of a row and 32 columns from `first_column`, a multiple of 32, on: one a lane, with the bits that tiles
// have. All lanes of a warp call it; `line` is 32 numbers of shared memory that only they use.
template <class Arithmetic>
__device__ __forceinline__ typename Arithmetic::Number make_row(const PackedRows<Arithmetic>& rows,
                                                                const PackedRows<Arithmetic>& columns, int64_t row,
                                                                int64_t first_column,
                                                                typename Arithmetic::Number* line) {
  constexpr int64_t kTile = Arithmetic::kTile;
  const auto sum =
      Arithmetic::row_sum(rows.panel(row / kTile), static_cast<int>(row % kTile), columns.panel(first_column / kTile),
                          static_cast<int>(first_column % kTile), rows.depth, line);
  const int64_t column = first_column + lane_index();
  return rows.scale && column < columns.count ? scaled(sum, rows.scale[row], columns.scale[column]) : sum;
}

}  // namespace hardmine::cuda
