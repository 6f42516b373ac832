// The running log-sum-exps of a pass over the pairs of sorted rows (cpu/simd/logsumexp_block_table.h).
#pragma once

#include <limits>

#include "core/int_math.h"
#include "cpu/engine/rows.h"
#include "cpu/simd/logsumexp_block_table.h"

namespace hardmine::cpu {

// An array with one element per sorted row, padded as the kernels read it.
template <class T>
WorkspaceVector<T> per_row(const SortedRows<T>& rows, T fill) {
  return WorkspaceVector<T>(round_up(rows.count(), kBlockStep), fill);
}

// The running sums of sorted rows.
template <class T>
struct RunningSums {
  WorkspaceVector<T> shift;
  WorkspaceVector<double> sum, offset, positive_sum;
  WorkspaceVector<int64_t> positive_count;

  RunningSums(const SortedRows<T>& rows, bool positives)
      : shift(per_row(rows, -std::numeric_limits<T>::infinity())),
        sum(rows.count(), 0.0),
        offset(rows.count(), 0.0),
        positive_sum(positives ? rows.count() : 0, 0.0),
        positive_count(positives ? rows.count() : 0, 0) {}

  RunningLogSumExp<T> view() { return {.shift = shift.data(), .sum = sum.data(), .offset = offset.data()}; }
  PositiveSums positives() {
    if (positive_sum.empty()) return {};
    return {.sum = positive_sum.data(), .count = positive_count.data()};
  }
  bool has_pair(int64_t row) const { return shift[row] != -std::numeric_limits<T>::infinity(); }
  // Finite rows may have an infinite product, which is the shift then: the result is NaN.
  double total(int64_t row) const { return sum[row] > 0 ? sum[row] : std::numeric_limits<double>::quiet_NaN(); }
};

}  // namespace hardmine::cpu
