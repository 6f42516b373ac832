// Packed rows and loops over blocks, for tests that call the kernels of one SIMD target.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/selection.h"
#include "support/samples.h"
#include "support/simd_targets.h"

namespace hardmine::test {

inline int64_t round_up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A batch sorted by label and packed both ways, exactly as long as the contract of PackedMatrix asks for.
template <class T>
struct PackedBatch {
  int64_t count, padded;
  std::vector<Index> id;
  std::vector<int64_t> label;
  std::vector<T> groups, panels;

  PackedBatch(const Kernels<T>& kernel, const Batch<T>& batch, const T* norm = nullptr)
      : count(batch.count),
        padded(round_up_to(count, std::max(kernel.micro_tile_rows, kernel.panel_columns))),
        id(count) {
    std::iota(id.begin(), id.end(), 0);
    std::stable_sort(id.begin(), id.end(), [&](Index a, Index b) { return batch.label[a] < batch.label[b]; });
    if (count) id.resize(padded, id.back());
    for (const Index i : id) label.push_back(batch.label[i]);
    const auto packed = [&](int64_t group) {
      std::vector<T> out(round_up_to(count, group) * batch.depth);
      kernel.pack(batch.x.data(), batch.depth, id.data(), norm, count, 0, count, group, out.data());
      return out;
    };
    groups = packed(kernel.micro_tile_rows);
    panels = packed(kernel.panel_columns);
  }
  cpu::PackedMatrix<T> view() const { return {groups.data(), panels.data(), label.data(), id.data(), count}; }
};

// The best candidate per row after a whole pass. `start` and `upper` are the same for all rows.
template <class T>
struct PassResult {
  std::vector<T> key;
  std::vector<Index> index;
};

template <class T>
PassResult<T> run_pass(const Kernels<T>& kernel, const cpu::PairwiseParams<T>& pass, bool same_class, bool largest_wins,
                       const KeyRange<T>& range, bool bounded, int64_t row_block, int64_t column_panels) {
  const int64_t padded = round_up_to(pass.rows.count, std::max(kernel.micro_tile_rows, kernel.panel_columns));
  PassResult<T> best{std::vector<T>(padded, range.start_key), std::vector<Index>(padded, range.start_index)};
  const std::vector<T> upper(padded, range.upper);
  const cpu::BlockSelection<T> selecting{same_class ? cpu::PairKind::kSameClass : cpu::PairKind::kOtherClass,
                                         largest_wins,
                                         {best.key.data(), best.index.data(), bounded ? upper.data() : nullptr}};
  const int64_t column_block = column_panels * kernel.panel_columns;
  for (int64_t row = 0; row < pass.rows.count; row += row_block) {
    for (int64_t column = 0; column < pass.columns.count; column += column_block) {
      kernel.select_block(pass, &selecting, 1, row, std::min(row + row_block, pass.rows.count), column,
                          std::min(column + column_block, pass.columns.count));
    }
  }
  best.key.resize(pass.rows.count);
  best.index.resize(pass.rows.count);
  return best;
}

}  // namespace hardmine::test
