// A pass over the tiles that selects the best candidate of each row.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "core/selection.h"
#include "cpu/engine/pass_blocks.h"
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

template <class T>
SelectionSpec<T> positive_spec(const SelectionRule& rule) {
  const KeyRange<T> range = positive_range<T>(rule);
  return {.kind = PairKind::kSameClass,
          .least_similar = prefers_least_similar(rule.positive),
          .bounded = range.upper < std::numeric_limits<T>::infinity(),
          .range = [range](int64_t) { return range; }};
}

template <class T>
SelectionSpec<T> negative_spec(bool least_similar) {
  return {.kind = PairKind::kOtherClass, .least_similar = least_similar, .bounded = false, .range = [](int64_t) {
            return unlimited_range<T>();
          }};
}

// `positive_key`: the key of the similarity of each sorted row's positive; NaN without one.
template <class T>
SelectionSpec<T> semihard_spec(const SelectionRule& rule, const T* positive_key) {
  return {.kind = PairKind::kOtherClass, .least_similar = false, .bounded = true, .range = [=](int64_t row) {
            return semihard_range<T>(rule, positive_key[row]);
          }};
}

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

// Makes 1 to kMaxSelections selections in one pass over the pairs of a part.
template <class T>
std::vector<SelectionResult<T>> run_pass(const SortedRows<T>& rows, const SortedRows<T>& columns,
                                         PairwiseParams<T> params, const std::vector<SelectionSpec<T>>& specs,
                                         const ThreadPool& pool, const PassPart& part = {}) {
  const SelectKernels<T>& kernel = kernels<SelectKernels<T>>();
  params.rows = rows.view();
  params.columns = columns.view();
  const double same = same_class_pairs(rows, columns);
  const double different = static_cast<double>(rows.count()) * static_cast<double>(columns.count()) - same;
  double pairs = 0;
  PassKinds kinds;
  for (const SelectionSpec<T>& spec : specs) {
    const bool same_class = spec.kind == PairKind::kSameClass;
    pairs += same_class ? same : different;
    (same_class ? kinds.same_class : kinds.other_class) = true;
  }
  pairs /= static_cast<double>((params.symmetric ? 2 : 1) * part.num_parts);
  const int64_t threads = thread_count_for(pool, pairs * static_cast<double>(params.depth), kMultiplyAddGrain);

  // If there are few blocks, their rows are split, so that no thread waits long for the last one.
  const PassBlocks<T> blocks(rows, columns, params.symmetric, kinds);
  const BlockRange range = blocks.range(part);
  int64_t splits = 1;
  while (splits < kMaxBlockRows / 24 && range.count() * splits < 64 * threads) splits *= 2;

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

  parallel_tasks(pool, threads, range.count() * splits, [&](int64_t worker, int64_t task) {
    const int64_t split_rows = kMaxBlockRows / splits;
    const Block block = blocks.at(range.begin + task / splits);
    const int64_t row = block.row_begin + task % splits * split_rows;
    const Block split{row, std::min(row + split_rows, block.row_end), block.column_begin, block.column_end};
    if (!blocks.has_pairs(split)) return;
    kernel.select_block(params, block_selections[worker].data(), static_cast<int64_t>(specs.size()), split.row_begin,
                        split.row_end, split.column_begin, split.column_end);
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
