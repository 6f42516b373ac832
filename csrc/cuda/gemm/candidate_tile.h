// Tiles without the pairs that ids exclude.
#pragma once

#include <limits>

#include "core/views.h"
#include "cuda/gemm/make_tile.h"

namespace hardmine::cuda {

// The ids of two operands, [count] each. Null: there are no ids.
struct PairIds {
  const int64_t* row = nullptr;
  const int64_t* column = nullptr;

  HARDMINE_HD bool given() const { return row != nullptr; }
  __device__ __forceinline__ bool exclude(int64_t r, int64_t c) const {
    return given() && ids_exclude(row[r], column[c]);
  }
};

// Kernels are compiled with and without ids: kernels that could mask pairs by ids would spill registers even without.
enum class Ids { kNone, kGiven };

namespace tile_engine {

template <class MmaPolicy>
__device__ __forceinline__ void mask_excluded_pairs(const PairIds& ids, int64_t row_count, int64_t column_count,
                                                    int64_t first_row, int64_t first_column,
                                                    Fragment<MmaPolicy>& fragment) {
  int64_t row_id[MmaPolicy::kRows];
#pragma unroll
  for (int r = 0; r < MmaPolicy::kRows; ++r) {
    const int64_t row = first_row + MmaPolicy::row(r);
    row_id[r] = row < row_count ? ids.row[row] : -1;
  }
#pragma unroll
  for (int c = 0; c < MmaPolicy::kColumns; ++c) {
    const int64_t column = first_column + MmaPolicy::column(c);
    const int64_t id = column < column_count ? ids.column[column] : -1;
#pragma unroll
    for (int r = 0; r < MmaPolicy::kRows; ++r)
      if (ids_exclude(id, row_id[r])) fragment.at[r][c] = std::numeric_limits<typename MmaPolicy::acc_t>::quiet_NaN();
  }
}

}  // namespace tile_engine

// As make_tile, with NaN for excluded pairs, which no consumer takes for a candidate.
template <Ids kIds, class MmaPolicy>
__device__ __forceinline__ void make_candidate_tile(const PackedMatrix<MmaPolicy>& rows,
                                                    const PackedMatrix<MmaPolicy>& columns, const PairIds& ids,
                                                    int64_t row_panel, int64_t column_panel,
                                                    Fragment<MmaPolicy>& fragment) {
  make_tile(rows, columns, row_panel, column_panel, fragment);
  if constexpr (kIds == Ids::kGiven)
    tile_engine::mask_excluded_pairs(ids, rows.count, columns.count, row_panel * MmaPolicy::kTile,
                                     column_panel * MmaPolicy::kTile, fragment);
}

}  // namespace hardmine::cuda
