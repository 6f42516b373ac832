// The kernel of ranks: counts the negatives that beat the positives of their row or column.
#pragma once

#include "core/int_math.h"
#include "cpu/simd/block.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/rank_block_table.h"
#include "cpu/simd/switch_bools.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Counts a negative at the first positive of `owner` that it beats. It then beats all positives behind that one, too.
template <class T>
inline void count_negative(const RankedPositives<T>& positives, int64_t owner, T key, Index index) {
  const int64_t end = positives.first[owner + 1];
  const int64_t passed = partition_point(
      positives.first[owner], end, [&](int64_t p) { return !beats(key, index, positives.key[p], positives.index[p]); });
  if (passed < end) ++positives.passed[passed];
}

// Most negatives of a trained embedding are worse than the worst positive, so the loop only compares with that. The
// comparison is >=, which leaves ties to `beats`. Comparisons with NaN are false.
template <bool kEuclidean, bool kSymmetric, class T>
void count_better_negatives_of(const PairwiseParams<T>& params, const Block& block, const T* scores,
                               const RankedPositives<T>& positives) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  for (int64_t i = 0; i < block.rows(); ++i) {
    const int64_t row = block.row_begin + i;
    const T* row_scores = scores + i * kMaxBlockColumns;
    const V row_worst = V::broadcast(positives.worst + row);
    for (int64_t c = 0; c < width; c += V::kLanes) {
      V key = V::load(row_scores + c);
      if constexpr (kEuclidean) key = -key;
      uint64_t row_hits = (key >= row_worst).bits();
      for (; row_hits; row_hits &= row_hits - 1) {
        const int64_t column = c + __builtin_ctzll(row_hits);
        count_negative(positives, row, kEuclidean ? -row_scores[column] : row_scores[column],
                       params.columns.id[block.column_begin + column]);
      }
      if constexpr (kSymmetric) {
        uint64_t column_hits = (key >= V::load(positives.worst + block.column_begin + c)).bits();
        for (; column_hits; column_hits &= column_hits - 1) {
          const int64_t column = c + __builtin_ctzll(column_hits);
          count_negative(positives, block.column_begin + column, kEuclidean ? -row_scores[column] : row_scores[column],
                         params.rows.id[row]);
        }
      }
    }
  }
}

template <class T>
void count_better_negatives(const PairwiseParams<T>& params, const Block& block, const T* scores,
                            const RankedPositives<T>& positives) {
  using Function = void (*)(const PairwiseParams<T>&, const Block&, const T*, const RankedPositives<T>&);
  const Function function = switch_bools(
      []<bool kEuclidean, bool kSymmetric>() -> Function {
        return count_better_negatives_of<kEuclidean, kSymmetric, T>;
      },
      params.euclidean, params.symmetric);
  function(params, block, scores, positives);
}

HARDMINE_PROVIDE_KERNELS(RankKernels, .count_better_negatives = count_better_negatives<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
