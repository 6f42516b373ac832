// The labels of a tile's rows and columns, in shared memory.
#pragma once

#include "cuda/gemm/candidate_tile.h"

namespace hardmine::cuda {

// The operands of a grid of tiles. `symmetric`: the columns are the rows, and no row is paired with itself.
template <class MmaPolicy>
struct PairwiseOperands {
  PackedMatrix<MmaPolicy> rows, columns;
  const int64_t* row_label;     // [rows.count]
  const int64_t* column_label;  // [columns.count]
  bool symmetric;
  PairIds ids;
};

template <class MmaPolicy>
struct TileLabels {
  static constexpr int kTile = MmaPolicy::kTile;
  static constexpr size_t kBytes = 2 * kTile * sizeof(int64_t);
  int64_t *row, *column;  // [kTile] each; labels past the end are 0

  __device__ __forceinline__ explicit TileLabels(char* shared)
      : row(reinterpret_cast<int64_t*>(shared)), column(row + kTile) {}

  // All threads of the block call it. True if some row and some column have the same label.
  __device__ __forceinline__ bool read(const PairwiseOperands<MmaPolicy>& operands, int64_t first_row,
                                       int64_t first_column) const {
    const int64_t rows = operands.rows.count, columns = operands.columns.count;
    if (threadIdx.x < kTile) {
      const int64_t r = first_row + threadIdx.x, c = first_column + threadIdx.x;
      row[threadIdx.x] = r < rows ? operands.row_label[r] : 0;
      column[threadIdx.x] = c < columns ? operands.column_label[c] : 0;
    }
    __syncthreads();
    bool same = false;
    if (threadIdx.x < kTile && first_row + threadIdx.x < rows) {
      const int64_t label = row[threadIdx.x], left = columns - first_column;
      const int columns_inside = left < kTile ? static_cast<int>(left) : kTile;
      for (int c = 0; c < columns_inside; ++c) same |= column[c] == label;
    }
    return __syncthreads_or(same);
  }
};

}  // namespace hardmine::cuda
