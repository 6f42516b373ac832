// A pass over the tiles that selects the best candidate of each row.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "cpu/engine/rows.h"
#include "cpu/simd/select_block_table.h"

namespace hardmine::cpu {

// The best candidate of each sorted row.
template <class T>
struct SelectionResult {
  Buffer<T> key;
  Buffer<Index> index;
};

// The number of pairs (row, column) with equal labels. Both operands are sorted.
template <class T>
double same_class_pairs(const SortedRows<T>& rows, const SortedRows<T>& columns) {
  double pairs = 0;
  int64_t c = 0;
  for (int64_t r = 0; r < rows.count();) {
    const int64_t label = rows.label()[r];
    int64_t row_end = r, column_end;
    while (row_end < rows.count() && rows.label()[row_end] == label) ++row_end;
    while (c < columns.count() && columns.label()[c] < label) ++c;
    for (column_end = c; column_end < columns.count() && columns.label()[column_end] == label;) ++column_end;
    pairs += static_cast<double>(row_end - r) * static_cast<double>(column_end - c);
    r = row_end;
    c = column_end;
  }
  return pairs;
}

// What a pass selects. range(row) gives the admissible keys of a sorted row.
template <class T>
struct SelectionSpec {
  PairKind kind;  // kSameClass or kOtherClass
  bool least_similar;
  bool bounded;  // true if some range has an upper bound
  std::function<KeyRange<T>(int64_t row)> range;
};

// Initializes the state of a selection to the start of each row's range. The kernels also read the padding rows of the
// last panel, but never select for them.
template <class T>
void start(const SelectionSpec<T>& spec, const SortedRows<T>& rows, T* key, Index* index, T* upper) {
  for (int64_t i = 0; i < rows.padded(); ++i) {
    const KeyRange<T> range = spec.range(std::min(i, rows.count() - 1));
    key[i] = range.start_key;
    index[i] = range.start_index;
    if (upper) upper[i] = range.upper;
  }
}

// Makes 1 to kMaxSelections selections in one pass.
template <class T>
std::vector<SelectionResult<T>> run_pass(const SortedRows<T>& rows, const SortedRows<T>& columns,
                                         PairwiseParams<T> params, const std::vector<SelectionSpec<T>>& specs,
                                         const ThreadPool& pool) {
  const SelectKernels<T>& kernel = kernels<SelectKernels<T>>();
  params.rows = rows.view();
  params.columns = columns.view();
  const double same = same_class_pairs(rows, columns);
  const double different = static_cast<double>(rows.count()) * static_cast<double>(columns.count()) - same;
  double pairs = 0;
  bool only_same_class = true;
  for (const SelectionSpec<T>& spec : specs) {
    pairs += spec.kind == PairKind::kSameClass ? same : different;
    only_same_class &= spec.kind == PairKind::kSameClass;
  }
  const int64_t threads =
      thread_count_for(pool, pairs * static_cast<double>(params.depth) / (params.symmetric ? 2 : 1), kMultiplyAddGrain);

  // If there are few blocks, they are made smaller, so that no thread waits long for the last one.
  const int64_t column_block = round_up(256, kernels<TileKernels<T>>().panel_columns);
  const int64_t column_blocks = ceil_div(columns.count(), column_block);
  int64_t row_block = kMaxBlockRows;
  while (row_block > 24 && ceil_div(rows.count(), row_block) * column_blocks < 64 * threads) row_block /= 2;
  const int64_t row_blocks = ceil_div(rows.count(), row_block);

  // Each worker has its own state. The order of candidates is total, so the order of the merge does not matter.
  const int64_t stride = round_up(rows.padded(), 16);
  std::vector<SelectionResult<T>> results(specs.size());
  std::vector<Buffer<T>> upper(specs.size());
  std::vector<std::vector<BlockSelection<T>>> block_selections(threads);
  for (size_t r = 0; r < specs.size(); ++r) {
    const SelectionSpec<T>& spec = specs[r];
    results[r] = {Buffer<T>(threads * stride), Buffer<Index>(threads * stride)};
    if (spec.bounded) upper[r] = Buffer<T>(stride);
    start(spec, rows, results[r].key.get(), results[r].index.get(), upper[r].get());
    for (int64_t t = 0; t < threads; ++t) {
      const SelectionState<T> best{.key = results[r].key.get() + t * stride,
                                   .index = results[r].index.get() + t * stride,
                                   .upper = upper[r].get()};
      if (t > 0) {
        std::copy_n(results[r].key.get(), rows.padded(), best.key);
        std::copy_n(results[r].index.get(), rows.padded(), best.index);
      }
      // Tiles of the Euclidean similarity hold squared distances: the smallest is the most similar.
      block_selections[t].push_back(
          {.kind = spec.kind, .largest_wins = spec.least_similar == params.euclidean, .best = best});
    }
  }

  parallel_tasks(pool, threads, row_blocks * column_blocks, [&](int64_t worker, int64_t task) {
    const int64_t row = task / column_blocks * row_block, column = task % column_blocks * column_block;
    const int64_t row_end = std::min(row + row_block, rows.count());
    const int64_t column_end = std::min(column + column_block, columns.count());
    if (params.symmetric && column_end - 1 <= row) return;
    const auto &row_label = rows.label(), &column_label = columns.label();
    if (only_same_class &&
        (row_label[row_end - 1] < column_label[column] || column_label[column_end - 1] < row_label[row])) {
      return;
    }
    kernel.select_block(params, block_selections[worker].data(), static_cast<int64_t>(specs.size()), row, row_end,
                        column, column_end);
  });

  for (const SelectionResult<T>& all : results) {
    for (int64_t t = 1; t < threads; ++t) {
      for (int64_t i = 0; i < rows.count(); ++i) {
        const int64_t other = t * stride + i;
        if (!beats(all.key[other], all.index[other], all.key[i], all.index[i])) continue;
        all.key[i] = all.key[other];
        all.index[i] = all.index[other];
      }
    }
  }
  return results;
}

}  // namespace hardmine::cpu
