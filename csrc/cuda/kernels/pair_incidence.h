// The pairs of each row. Endpoint p is the left row of pair p, and endpoint P + p its right row, of P pairs. A row sums
// its gradient over its endpoints in ascending order.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/pair_gradient.h"

namespace hardmine::cuda {

template <class acc_t>
struct PairEndpoints {
  PairList<acc_t> pairs;
  int64_t left_rows, right_rows;  // valid rows are [0, left_rows), [0, right_rows)

  HARDMINE_HD int64_t pair_count() const { return pairs.count * pairs.partners; }
  HARDMINE_HD int64_t left_of(int64_t p) const {
    const int64_t entry = p / pairs.partners;
    return pairs.left ? pairs.left[entry] : entry;
  }
  HARDMINE_HD int64_t right_of(int64_t p) const { return pairs.right[p]; }
  // A pair with gradient 0 is skipped, so it adds not even a NaN.
  HARDMINE_HD bool has(int64_t p) const {
    const int64_t first = left_of(p), second = right_of(p);
    return first >= 0 && first < left_rows && second >= 0 && second < right_rows && pairs.gradient[p] != acc_t(0);
  }
};

// Which endpoints of pairs rows may be.
struct PairRoles {
  bool left, right;
};

// Per row of a matrix, its endpoints in no particular order (CSR). Null if rows scan all pairs instead.
struct RowToPairs {
  const int64_t* begin = nullptr;  // [rows + 1]
  const int64_t* endpoint = nullptr;
};

// Up to this many pairs, every row scans all pairs, which saves launches.
inline constexpr int64_t kMaxPairsScanned = 2048;

}  // namespace hardmine::cuda
