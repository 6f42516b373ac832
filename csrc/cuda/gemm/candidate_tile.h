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

  __device__ __forceinline__ bool exclude(int64_t r, int64_t c) const {
    return row && ids_exclude(row[r], column[c]);
  }
};

// As make_tile, with NaN for excluded pairs, which no consumer takes for a candidate.
template <class MmaPolicy>
__device__ __forceinline__ void make_candidate_tile(const PackedMatrix<MmaPolicy>& rows,
                                                    const PackedMatrix<MmaPolicy>& columns, const PairIds& ids,
                                                    int64_t row_panel, int64_t column_panel,
                                                    Fragment<MmaPolicy>& fragment) {
  make_tile(rows, columns, row_panel, column_panel, fragment);
  if (!ids.row) return;
  const int64_t first_row = row_panel * MmaPolicy::kTile, first_column = column_panel * MmaPolicy::kTile;
  int64_t row_id[MmaPolicy::kRows];
#pragma unroll
  for (int r = 0; r < MmaPolicy::kRows; ++r) {
    const int64_t row = first_row + MmaPolicy::row(r);
    row_id[r] = row < rows.count ? ids.row[row] : -1;
  }
#pragma unroll
  for (int c = 0; c < MmaPolicy::kColumns; ++c) {
    const int64_t column = first_column + MmaPolicy::column(c);
    const int64_t id = column < columns.count ? ids.column[column] : -1;
#pragma unroll
    for (int r = 0; r < MmaPolicy::kRows; ++r)
      if (ids_exclude(id, row_id[r])) fragment.at[r][c] = std::numeric_limits<typename MmaPolicy::acc_t>::quiet_NaN();
  }
}

}  // namespace hardmine::cuda
