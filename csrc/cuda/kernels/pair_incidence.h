// Which pairs a row takes part in. Every pair has two endpoints: end p is the first row of pair p, end P + p its
// second, of P pairs in all. A row's endpoints, in ascending order, are the order in which it adds up its gradient.
#pragma once

#include "cuda/device/device.h"
#include "cuda/kernels/pair_gradient.h"

namespace hardmine::cuda {

template <class acc_t>
struct PairEndpoints {
  PairList<acc_t> pairs;
  int64_t left_rows, right_rows;  // rows that a first and a second may be

  HARDMINE_HD int64_t pair_count() const { return pairs.count * pairs.partners; }
  HARDMINE_HD int64_t left_of(int64_t p) const {
    const int64_t entry = p / pairs.partners;
    return pairs.left ? pairs.left[entry] : entry;
  }
  HARDMINE_HD int64_t right_of(int64_t p) const { return pairs.right[p]; }
  // A pair without a gradient adds nothing, not even a NaN.
  HARDMINE_HD bool has(int64_t p) const {
    const int64_t first = left_of(p), second = right_of(p);
    return first >= 0 && first < left_rows && second >= 0 && second < right_rows && pairs.gradient[p] != acc_t(0);
  }
};

// For every row of one matrix, the endpoints that lie there, in no order; null where rows look through all pairs
// instead.
struct RowToPairs {
  const int64_t* begin = nullptr;  // [rows + 1]
  const int64_t* endpoint = nullptr;
};

// Lists with up to this many pairs are looked through by every row: fewer launches.
inline constexpr int64_t kMaxPairsScanned = 2048;

}  // namespace hardmine::cuda
