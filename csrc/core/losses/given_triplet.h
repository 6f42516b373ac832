// Which rows may be a triplet that the user gives.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hardmine {

// row [3]: anchor, positive and negative must be three different ones of `row_count` rows.
HARDMINE_HD bool is_triplet(const int64_t* row, int64_t row_count) {
  for (int k = 0; k < 3; ++k)
    if (row[k] < 0 || row[k] >= row_count) return false;
  return row[0] != row[1] && row[0] != row[2] && row[1] != row[2];
}

}  // namespace hardmine
