// The numbers of a tile, from the packed rows of its two sides.
#pragma once

#include "packed_rows.h"
#include "tile_engine.h"

namespace hardmine::cuda {

namespace tile_engine {

template <class Arithmetic>
HARDMINE_DEVICE void scale(const PackedRows<Arithmetic>& rows, const PackedRows<Arithmetic>& columns, int64_t first_row,
                           int64_t first_column, Share<Arithmetic>& share) {
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
    for (int r = 0; r < Arithmetic::kRows; ++r) share.at[r][c] = share.at[r][c] * row_scale[r] * column_scale;
  }
}

}  // namespace tile_engine

// Fills `share` with the numbers of a panel of rows against one of columns. All threads of the block call it, with the
// first kSharedBytes of the block's shared memory, which nobody uses any more when it returns.
template <class Arithmetic>
HARDMINE_DEVICE void make_tile(const PackedRows<Arithmetic>& rows, const PackedRows<Arithmetic>& columns,
                               int64_t row_panel, int64_t column_panel, Share<Arithmetic>& share) {
  multiply_panels<Arithmetic>(rows.panel(row_panel), columns.panel(column_panel), stages_of<Arithmetic>(rows.depth),
                              shared_memory(), share);
  if (rows.scale)
    tile_engine::scale(rows, columns, row_panel * Arithmetic::kTile, column_panel * Arithmetic::kTile, share);
}

}  // namespace hardmine::cuda
