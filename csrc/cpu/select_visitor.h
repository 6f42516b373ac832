// The visitor of selection: keeps the best candidate of every row, and of every column where the pass is symmetric.
#pragma once

#include "tile_engine.h"

namespace hardmine::cpu::HARDMINE_LEVEL {

template <class T, bool kLargestWins, bool kBounded, bool kSymmetric>
struct SelectVisitor {
  using V = Vec<T>;
  const PairPass<T>& pass;
  const BestPairs<T>& best;

  void offer(int64_t owner, T key, Index index) const {
    if (kBounded && !(key <= best.upper[owner])) return;
    if (!beats(key, index, best.key[owner], best.index[owner])) return;
    best.key[owner] = key;
    best.index[owner] = index;
  }

  // The rare path: some candidate of this line may improve on its row's or its column's best. Kept out of the loop
  // below, whose registers it would take.
  __attribute__((noinline)) void offer_line(const T* line, int64_t row, int64_t column, uint64_t row_hits,
                                            uint64_t column_hits) const {
    for (; row_hits; row_hits &= row_hits - 1) {
      const int c = __builtin_ctzll(row_hits);
      offer(row, kLargestWins ? line[c] : -line[c], pass.columns.id[column + c]);
    }
    if constexpr (kSymmetric) {
      for (; column_hits; column_hits &= column_hits - 1) {
        const int c = __builtin_ctzll(column_hits);
        offer(column + c, kLargestWins ? line[c] : -line[c], pass.rows.id[row]);
      }
    }
  }

  // Most numbers improve nothing, so the loop only asks whether any of a line does. It asks with >=, which lets ties
  // through to `beats`. Comparisons with NaN are false.
  void operator()(const T* tile, int64_t row, int64_t row_end, int64_t column) const {
    for (int64_t i = row; i < row_end; ++i) {
      const T* line = tile + (i - row) * kPanel<T>;
      const V row_key = V::broadcast(best.key + i);
      typename V::Mask row_hit[kColumnVecs], column_hit[kColumnVecs];
      typename V::Mask any{};
#pragma GCC unroll 16
      for (int64_t v = 0; v < kColumnVecs; ++v) {
        const int64_t j = column + v * V::kLanes;
        V key = V::load(line + v * V::kLanes);
        if constexpr (!kLargestWins) key = key.negated();
        row_hit[v] = at_least(key, row_key);
        if constexpr (kBounded) row_hit[v] = V::both(row_hit[v], at_most(key, V::broadcast(best.upper + i)));
        any = v ? V::either(any, row_hit[v]) : row_hit[v];
        if constexpr (kSymmetric) {
          column_hit[v] = at_least(key, V::load(best.key + j));
          if constexpr (kBounded) column_hit[v] = V::both(column_hit[v], at_most(key, V::load(best.upper + j)));
          any = V::either(any, column_hit[v]);
        }
      }
      if (V::bits(any) == 0) [[likely]]
        continue;
      uint64_t row_hits = 0, column_hits = 0;
      for (int64_t v = 0; v < kColumnVecs; ++v) {
        row_hits |= static_cast<uint64_t>(V::bits(row_hit[v])) << (v * V::kLanes);
        if constexpr (kSymmetric) column_hits |= static_cast<uint64_t>(V::bits(column_hit[v])) << (v * V::kLanes);
      }
      offer_line(line, i, column, row_hits, column_hits);
    }
  }
};

template <class T, bool kLargestWins, bool kBounded, bool kSymmetric>
void select_block_as(const PairPass<T>& pass, int64_t row_begin, int64_t row_end, int64_t column_begin,
                     int64_t column_end, const BestPairs<T>& best) {
  const SelectVisitor<T, kLargestWins, kBounded, kSymmetric> visitor{pass, best};
  if (pass.euclidean) {
    visit_block<true>(pass, row_begin, row_end, column_begin, column_end, visitor);
  } else {
    visit_block<false>(pass, row_begin, row_end, column_begin, column_end, visitor);
  }
}

// Run-time flags to compile-time ones.
template <class T>
void select_block(const PairPass<T>& pass, int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end,
                  const BestPairs<T>& best) {
  using Block = void (*)(const PairPass<T>&, int64_t, int64_t, int64_t, int64_t, const BestPairs<T>&);
  static constexpr Block kBlocks[2][2][2] = {
      {{select_block_as<T, false, false, false>, select_block_as<T, false, false, true>},
       {select_block_as<T, false, true, false>, select_block_as<T, false, true, true>}},
      {{select_block_as<T, true, false, false>, select_block_as<T, true, false, true>},
       {select_block_as<T, true, true, false>, select_block_as<T, true, true, true>}}};
  kBlocks[pass.largest_wins][best.upper != nullptr][pass.symmetric](pass, row_begin, row_end, column_begin, column_end,
                                                                    best);
}

}  // namespace hardmine::cpu::HARDMINE_LEVEL
