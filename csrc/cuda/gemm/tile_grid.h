// The tiles of a grid, ordered so that tiles in flight together share rows and columns in the cache.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "core/int_math.h"

namespace hardmine::cuda {

struct TilePlace {
  int64_t row, column;  // panels
};

// Panels of rows against panels of columns. Symmetric: the columns are the rows, and each unordered pair occurs once,
// as row <= column. Tiles are numbered by squares of kSide x kSide tiles; some indices have no tile.
struct TileGrid {
  static constexpr int64_t kSide = 8;
  int64_t rows, columns;
  bool symmetric;

  static HARDMINE_HD int64_t squares(int64_t panels) { return ceil_div(panels, kSide); }

  HARDMINE_HD int64_t size() const {
    const int64_t r = squares(rows), c = squares(columns);
    return (symmetric ? r * (r + 1) / 2 : r * c) * kSide * kSide;
  }

  HARDMINE_HD TilePlace at(int64_t index) const {
    const int64_t square = index / (kSide * kSide), within = index % (kSide * kSide);
    int64_t row, column;
    if (symmetric) {
      // Square c (c + 1) / 2 + r is (r, c), r <= c. The square root is exact to within one.
      column = static_cast<int64_t>((std::sqrt(8.0 * static_cast<double>(square) + 1.0) - 1.0) / 2.0);
      while (column * (column + 1) / 2 > square) --column;
      while ((column + 1) * (column + 2) / 2 <= square) ++column;
      row = square - column * (column + 1) / 2;
    } else {
      row = square / squares(columns);
      column = square % squares(columns);
    }
    return {row * kSide + within / kSide, column * kSide + within % kSide};
  }

  HARDMINE_HD bool has(const TilePlace& place) const {
    return place.row < rows && place.column < columns && !(symmetric && place.column < place.row);
  }
};

}  // namespace hardmine::cuda
