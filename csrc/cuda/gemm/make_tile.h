// The scores of a tile, from the packed matrices of its two operands.
#pragma once

#include "cuda/gemm/packed_matrix.h"
#include "cuda/gemm/tile_engine.h"

namespace hardmine::cuda {

// The factors are multiplied first, so that scores (i, j) and (j, i) have the same bits.
template <class acc_t>
__device__ __forceinline__ acc_t scaled_score(acc_t score, acc_t row_factor, acc_t column_factor) {
  return score * (row_factor * column_factor);
}

namespace tile_engine {

template <class MmaPolicy>
__device__ __forceinline__ void apply_factors(const PackedMatrix<MmaPolicy>& rows,
                                              const PackedMatrix<MmaPolicy>& columns, int64_t first_row,
                                              int64_t first_column, Fragment<MmaPolicy>& fragment) {
  using acc_t = typename MmaPolicy::acc_t;
  acc_t row_factor[MmaPolicy::kRows];
#pragma unroll
  for (int r = 0; r < MmaPolicy::kRows; ++r) {
    const int64_t row = first_row + MmaPolicy::row(r);
    row_factor[r] = row < rows.count ? rows.factor[row] : acc_t(0);
  }
#pragma unroll
  for (int c = 0; c < MmaPolicy::kColumns; ++c) {
    const int64_t column = first_column + MmaPolicy::column(c);
    const acc_t column_factor = column < columns.count ? columns.factor[column] : acc_t(0);
#pragma unroll
    for (int r = 0; r < MmaPolicy::kRows; ++r)
      fragment.at[r][c] = scaled_score(fragment.at[r][c], row_factor[r], column_factor);
  }
}

}  // namespace tile_engine

// Computes the scores of a panel of rows against a panel of columns. All threads of the block call it. It uses the
// first kSharedBytes of shared memory, which are free again when it returns.
template <class MmaPolicy>
__device__ __forceinline__ void make_tile(const PackedMatrix<MmaPolicy>& rows, const PackedMatrix<MmaPolicy>& columns,
                                          int64_t row_panel, int64_t column_panel, Fragment<MmaPolicy>& fragment) {
  multiply_panels<MmaPolicy>(rows.panel(row_panel), columns.panel(column_panel), stages_of<MmaPolicy>(rows.depth),
                             shared_memory(), fragment);
  if (rows.factor)
    tile_engine::apply_factors(rows, columns, row_panel * MmaPolicy::kTile, column_panel * MmaPolicy::kTile, fragment);
}

// The scores of a row and 32 columns from `first_column` on, one per lane, with the same bits as in a tile.
// first_column is a multiple of 32. All lanes of a warp call it. `scratch`: 32 elements of shared memory per warp.
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
  return rows.factor && column < columns.count ? scaled_score(sum, rows.factor[row], columns.factor[column]) : sum;
}

}  // namespace hardmine::cuda
