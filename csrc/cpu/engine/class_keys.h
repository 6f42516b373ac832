// The keys of all pairs of equal labels.
#pragma once

#include <algorithm>
#include <limits>

#include "core/similarity.h"
#include "cpu/engine/block_pass.h"

namespace hardmine::cpu {

// The sorted columns [begin, end) of each sorted row's class, which have `places` from first on.
struct ClassColumns {
  WorkspaceVector<int64_t> begin, first;  // [rows], [rows + 1]

  template <class T>
  ClassColumns(const SortedRows<T>& rows, const SortedRows<T>& columns) : begin(rows.count()), first(rows.count() + 1) {
    const auto label = columns.label().begin(), end = label + columns.count();
    first[0] = 0;
    for (int64_t r = 0; r < rows.count(); ++r) {
      if (r > 0 && rows.label()[r] == rows.label()[r - 1]) {
        begin[r] = begin[r - 1];
        first[r + 1] = 2 * first[r] - first[r - 1];
        continue;
      }
      const auto run = std::equal_range(label, end, rows.label()[r]);
      begin[r] = run.first - label;
      first[r + 1] = first[r] + (run.second - run.first);
    }
  }
  int64_t count(int64_t row) const { return first[row + 1] - first[row]; }
  int64_t place(int64_t row, int64_t column) const { return first[row] + column - begin[row]; }
};

// The key of each place; NaN if the pair is no candidate.
template <class T>
WorkspaceVector<T> class_keys(const PairwiseOperands<T>& operands, const ClassColumns& of_class,
                              const ThreadPool& pool) {
  const PairwiseParams<T>& params = operands.params();
  WorkspaceVector<T> keys(of_class.first[operands.rows().count()], std::numeric_limits<T>::quiet_NaN());
  for_each_block(operands, PairKind::kSameClass, 1.0, pool, [&](int64_t, const Block& block, const T* scores) {
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      const T* row_scores = scores + (row - block.row_begin) * kMaxBlockColumns;
      const int64_t end = of_class.begin[row] + of_class.count(row);
      for (int64_t c = std::max(of_class.begin[row], block.column_begin); c < std::min(end, block.column_end); ++c) {
        const T score = row_scores[c - block.column_begin];
        if (score != score) continue;  // not a candidate, or visited as (column, row)
        const T key = key_from_score(params.euclidean, score);
        keys[of_class.place(row, c)] = key;
        if (params.symmetric) keys[of_class.place(c, row)] = key;
      }
    }
  });
  return keys;
}

}  // namespace hardmine::cpu
