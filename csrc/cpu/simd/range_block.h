// The kernel of ranges: keeps the best negative in each range of keys of each row, and of each column if the pass is
// symmetric.
#pragma once

#include "cpu/simd/block.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/range_block_table.h"
#include "cpu/simd/switch_bools.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// The first of the ranges [begin, end), at least one, whose upper bound is not below `key`; `end` if there is none. No
// branch depends on the key, since it would be mispredicted half the time.
template <class T>
inline int64_t first_range(const T* upper, int64_t begin, int64_t end, T key) {
  for (int64_t count = end - begin; count > 1;) {
    const int64_t half = count / 2;
    begin += upper[begin + half - 1] < key ? half : 0;
    count -= half;
  }
  return begin + (upper[begin] < key ? 1 : 0);
}

// Ranges ascend, so a candidate is admissible from the first range on whose upper bound it does not exceed. Bests
// ascend as well, so the first one that it does not beat ends the loop.
template <class T>
inline void offer_to_ranges(const RangedNegatives<T>& best, int64_t owner, T key, Index index) {
  const int64_t first = best.first[owner], end = best.first[owner + 1];
  for (int64_t r = first_range(best.upper, first, end, key); r < end && beats(key, index, best.key[r], best.index[r]);
       ++r) {
    best.key[r] = key;
    best.index[r] = index;
    if (r - first < best.levels[owner]) best.level_key[(r - first) * best.stride + owner] = key;
  }
}

// The lanes of `key` within [best, upper] of one of `count` ranges, which are `step` apart. load(p) gives the numbers
// of the lanes' owners. The comparison is >=, which leaves ties to `beats`. Comparisons with NaN are false.
template <class T, class Load>
inline uint64_t lanes_in_ranges(Vec<T> key, const T* best, const T* upper, const T* last_upper, int64_t count,
                                int64_t step, const Load& load) {
  if (count == 0) return 0;
  auto hits = (key >= load(best)) & (key <= load(last_upper));
  if (hits.bits() == 0 || count == 1) return hits.bits();
  hits = (key >= load(best)) & (key <= load(upper));
  for (int64_t l = 1; l < count; ++l) hits = hits | ((key >= load(best + l * step)) & (key <= load(upper + l * step)));
  return hits.bits();
}

template <bool kEuclidean, bool kSymmetric, class T>
void select_in_ranges_of(const PairwiseParams<T>& params, const Block& block, const T* scores,
                         const RangedNegatives<T>& best) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const auto broadcast = [](const T* p) { return V::broadcast(p); };
  const auto load = [](const T* p) { return V::load(p); };
  for (int64_t c = 0; c < width; c += V::kLanes) {
    const int64_t first_column = block.column_begin + c;
    Index column_levels = 0;
    if constexpr (kSymmetric) {
      for (int64_t lane = 0; lane < V::kLanes; ++lane) {
        const Index levels = best.levels[first_column + lane];
        column_levels = levels > column_levels ? levels : column_levels;
      }
    }
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      const T* row_scores = scores + (row - block.row_begin) * kMaxBlockColumns + c;
      V key = V::load(row_scores);
      if constexpr (kEuclidean) key = -key;
      const int64_t first = best.first[row];
      uint64_t row_hits = lanes_in_ranges(key, best.key + first, best.upper + first, best.last_upper + row,
                                          best.levels[row], 1, broadcast);
      for (; row_hits; row_hits &= row_hits - 1) {
        const int lane = __builtin_ctzll(row_hits);
        offer_to_ranges(best, row, kEuclidean ? -row_scores[lane] : row_scores[lane],
                        params.columns.id[first_column + lane]);
      }
      if constexpr (kSymmetric) {
        uint64_t column_hits = lanes_in_ranges(key, best.level_key + first_column, best.level_upper + first_column,
                                               best.last_upper + first_column, column_levels, best.stride, load);
        for (; column_hits; column_hits &= column_hits - 1) {
          const int lane = __builtin_ctzll(column_hits);
          offer_to_ranges(best, first_column + lane, kEuclidean ? -row_scores[lane] : row_scores[lane],
                          params.rows.id[row]);
        }
      }
    }
  }
}

template <class T>
void select_in_ranges(const PairwiseParams<T>& params, const Block& block, const T* scores,
                      const RangedNegatives<T>& best) {
  using Function = void (*)(const PairwiseParams<T>&, const Block&, const T*, const RangedNegatives<T>&);
  const Function function = switch_bools(
      []<bool kEuclidean, bool kSymmetric>() -> Function { return select_in_ranges_of<kEuclidean, kSymmetric, T>; },
      params.euclidean, params.symmetric);
  function(params, block, scores, best);
}

HARDMINE_PROVIDE_KERNELS(RangeKernels, .select_in_ranges = select_in_ranges<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
