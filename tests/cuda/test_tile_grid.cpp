// A grid visits every tile once.

#include "cuda/gemm/tile_grid.h"

#include <map>
#include <string>
#include <utility>

#include "support/check.h"

using namespace hardmine::cuda;
using hardmine::test::context;

namespace {

const int64_t kPanels[] = {0, 1, 2, 7, 8, 9, 16, 17, 33};

void check_grid(const TileGrid& grid) {
  std::map<std::pair<int64_t, int64_t>, int> visits;
  for (int64_t i = 0; i < grid.size(); ++i) {
    const TilePlace place = grid.at(i);
    CHECK(place.row >= 0 && place.column >= 0);
    if (grid.has(place)) ++visits[{place.row, place.column}];
  }
  int64_t wanted = 0;
  for (int64_t row = 0; row < grid.rows; ++row) {
    for (int64_t column = grid.symmetric ? row : 0; column < grid.columns; ++column) {
      ++wanted;
      const auto found = visits.find({row, column});
      CHECK_EQ(found == visits.end() ? 0 : found->second, 1);
    }
  }
  CHECK_EQ(static_cast<int64_t>(visits.size()), wanted);  // no other tiles
}

}  // namespace

TEST(tile_grid_visits_every_tile_once) {
  for (const int64_t rows : kPanels) {
    context = "symmetric, panels " + std::to_string(rows);
    check_grid({rows, rows, true});
    for (const int64_t columns : kPanels) {
      context = "panels " + std::to_string(rows) + " x " + std::to_string(columns);
      check_grid({rows, columns, false});
    }
  }
}

TEST(tile_grid_adjacent_tiles_share_rows_and_columns) {
  const TileGrid grid{20, 20, false};
  for (int64_t i = 0; i < grid.size(); ++i) {
    const TilePlace first = grid.at(i / 64 * 64), place = grid.at(i);
    CHECK(place.row >= first.row && place.row < first.row + 8);
    CHECK(place.column >= first.column && place.column < first.column + 8);
  }
}

TEST(tile_grid_largest_batch_is_exact) {
  // 2^31 rows are 2^24 panels, 2^21 squares per side. The square root of such numbers is not exact.
  const TileGrid grid{int64_t{1} << 24, int64_t{1} << 24, true};
  for (const int64_t column : {int64_t{1} << 20, (int64_t{1} << 21) - 2, (int64_t{1} << 21) - 1}) {
    const int64_t first = column * (column + 1) / 2;  // the number of square (0, column)
    for (const int64_t row : {int64_t{0}, int64_t{1}, column - 1, column}) {
      const TilePlace place = grid.at((first + row) * 64 + 63);
      CHECK_EQ(place.row, row * 8 + 7);
      CHECK_EQ(place.column, column * 8 + 7);
    }
  }
}
