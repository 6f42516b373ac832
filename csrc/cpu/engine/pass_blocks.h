// The blocks of a pass over all pairs of two sorted matrices, and their division among ranks.
#pragma once

#include <algorithm>

#include "cpu/engine/pass_part.h"
#include "cpu/engine/rows.h"

namespace hardmine::cpu {

// The kinds of pairs that a pass wants.
struct PassKinds {
  bool same_class = false, other_class = false;
};

struct BlockRange {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

// Blocks of kMaxBlockRows x kPassColumns, numbered row by row. They depend on neither threads nor SIMD target, so that
// ranks with different CPUs agree on the parts.
template <class T>
class PassBlocks {
 public:
  static constexpr int64_t kPassColumns = 3 * kBlockStep;

  PassBlocks(const SortedRows<T>& rows, const SortedRows<T>& columns, bool symmetric, const PassKinds& kinds)
      : rows_(rows),
        columns_(columns),
        symmetric_(symmetric),
        kinds_(kinds),
        column_blocks_(ceil_div(columns.count(), kPassColumns)) {}

  int64_t count() const { return ceil_div(rows_.count(), kMaxBlockRows) * column_blocks_; }

  Block at(int64_t i) const {
    const int64_t row = i / column_blocks_ * kMaxBlockRows, column = i % column_blocks_ * kPassColumns;
    return {row, std::min(row + kMaxBlockRows, rows_.count()), column,
            std::min(column + kPassColumns, columns_.count())};
  }

  // False if no pair of the block is wanted; a block with a few unwanted pairs may have true.
  bool has_pairs(const Block& block) const {
    if (block.row_begin >= block.row_end) return false;
    if (symmetric_ && block.column_end - 1 <= block.row_begin) return false;  // (i, i), or visited as (j, i)
    const int64_t row_low = rows_.label()[block.row_begin], row_high = rows_.label()[block.row_end - 1];
    const int64_t column_low = columns_.label()[block.column_begin];
    const int64_t column_high = columns_.label()[block.column_end - 1];
    const bool disjoint = row_high < column_low || column_high < row_low;
    const bool single = row_low == column_high && column_low == row_high;
    return (kinds_.same_class && !disjoint) || (kinds_.other_class && !single);
  }

  // The blocks of a part. Every block is in exactly one part.
  BlockRange range(const PassPart& part) const {
    if (part.num_parts == 1) return {0, count()};
    double total = 0;
    for (int64_t i = 0; i < count(); ++i) total += work(i);
    BlockRange range{0, 0};
    double before = 0;
    for (int64_t i = 0; i < count(); ++i) {
      const double own = work(i);
      if (own == 0) continue;
      const int64_t found = part_of_work(before, own, total, part.num_parts);
      if (found > part.part) break;
      if (found == part.part && range.count() == 0) range.begin = i;
      if (found == part.part) range.end = i + 1;
      before += own;
    }
    return range;
  }

 private:
  // The number of pairs that a visit computes.
  double work(int64_t i) const {
    const Block block = at(i);
    if (!has_pairs(block)) return 0;
    if (!symmetric_ || block.column_begin >= block.row_end)
      return static_cast<double>(block.rows()) * static_cast<double>(block.columns());
    int64_t pairs = 0;
    for (int64_t row = block.row_begin; row < block.row_end; ++row)
      pairs += std::max<int64_t>(0, block.column_end - std::max(block.column_begin, row + 1));
    return static_cast<double>(pairs);
  }

  const SortedRows<T>& rows_;
  const SortedRows<T>& columns_;
  bool symmetric_;
  PassKinds kinds_;
  int64_t column_blocks_;
};

}  // namespace hardmine::cpu
