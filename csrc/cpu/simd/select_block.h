// The kernel of selection: keeps the best candidate of each row, and of each column if the pass is symmetric.
#pragma once

#include "cpu/simd/kernel_table.h"
#include "cpu/simd/select_block_table.h"
#include "cpu/simd/switch_bools.h"
#include "cpu/simd/tile_engine.h"

namespace hardmine::cpu::HARDMINE_TARGET {

template <class T, bool kLargestWins, bool kBounded, bool kSymmetric>
struct SelectVisitor {
  using V = Vec<T>;
  const PairwiseParams<T>& params;
  const SelectionState<T>& best;

  void offer(int64_t owner, T key, Index index) const {
    if (kBounded && !(key <= best.upper[owner])) return;
    if (!beats(key, index, best.key[owner], best.index[owner])) return;
    best.key[owner] = key;
    best.index[owner] = index;
  }

  // The rare path: some candidate may beat the best of its row or column. Not inlined, since the loop below needs the
  // registers.
  __attribute__((noinline)) void offer_hits(const T* tile_row, int64_t row, int64_t column, uint64_t row_hits,
                                            uint64_t column_hits) const {
    for (; row_hits; row_hits &= row_hits - 1) {
      const int c = __builtin_ctzll(row_hits);
      offer(row, kLargestWins ? tile_row[c] : -tile_row[c], params.columns.id[column + c]);
    }
    if constexpr (kSymmetric) {
      for (; column_hits; column_hits &= column_hits - 1) {
        const int c = __builtin_ctzll(column_hits);
        offer(column + c, kLargestWins ? tile_row[c] : -tile_row[c], params.rows.id[row]);
      }
    }
  }

  // Most scores beat nothing, so the loop only checks whether any score of a row may. The check is >=, which leaves
  // ties to `beats`. Comparisons with NaN are false.
  void operator()(const T* tile, int64_t row, int64_t row_end, int64_t column) const {
    for (int64_t i = row; i < row_end; ++i) {
      const T* tile_row = tile + (i - row) * kPanel<T>;
      const V row_key = V::broadcast(best.key + i);
      typename V::Mask row_hit[kColumnVecs], column_hit[kColumnVecs];
      typename V::Mask any{};
#pragma GCC unroll 16
      for (int64_t v = 0; v < kColumnVecs; ++v) {
        const int64_t j = column + v * V::kLanes;
        V key = V::load(tile_row + v * V::kLanes);
        if constexpr (!kLargestWins) key = -key;
        row_hit[v] = key >= row_key;
        if constexpr (kBounded) row_hit[v] = row_hit[v] & (key <= V::broadcast(best.upper + i));
        any = v ? any | row_hit[v] : row_hit[v];
        if constexpr (kSymmetric) {
          column_hit[v] = key >= V::load(best.key + j);
          if constexpr (kBounded) column_hit[v] = column_hit[v] & (key <= V::load(best.upper + j));
          any = any | column_hit[v];
        }
      }
      if (any.bits() == 0) [[likely]]
        continue;
      uint64_t row_hits = 0, column_hits = 0;
      for (int64_t v = 0; v < kColumnVecs; ++v) {
        row_hits |= static_cast<uint64_t>(row_hit[v].bits()) << (v * V::kLanes);
        if constexpr (kSymmetric) column_hits |= static_cast<uint64_t>(column_hit[v].bits()) << (v * V::kLanes);
      }
      offer_hits(tile_row, i, column, row_hits, column_hits);
    }
  }
};

template <class T>
struct SelectState {
  const PairwiseParams<T>* params;
  const SelectionState<T>* best;
};

template <class T, bool kLargestWins, bool kBounded, bool kSymmetric>
void visit_select(const void* self, const T* tile, int64_t row, int64_t row_end, int64_t column) {
  const SelectState<T>& state = *static_cast<const SelectState<T>*>(self);
  SelectVisitor<T, kLargestWins, kBounded, kSymmetric>{*state.params, *state.best}(tile, row, row_end, column);
}

template <class T>
void select_block(const PairwiseParams<T>& params, const BlockSelection<T>* selections, int64_t selection_count,
                  int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) {
  using Visit = void (*)(const void*, const T*, int64_t, int64_t, int64_t);
  static_assert(kMaxSelections <= kMaxVisitors);
  SelectState<T> states[kMaxSelections];
  TileVisitor<T> visitors[kMaxSelections];
  for (int64_t v = 0; v < selection_count; ++v) {
    const BlockSelection<T>& selection = selections[v];
    states[v] = {&params, &selection.best};
    const Visit visit = switch_bools(
        []<bool kLargestWins, bool kBounded, bool kSymmetric>() -> Visit {
          return visit_select<T, kLargestWins, kBounded, kSymmetric>;
        },
        selection.largest_wins, selection.best.upper != nullptr, params.symmetric);
    visitors[v] = {selection.kind, visit, &states[v]};
  }
  visit_block(params, visitors, selection_count, row_begin, row_end, column_begin, column_end);
}

HARDMINE_PROVIDE_KERNELS(SelectKernels, .select_block = select_block<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
