// The kernel of nearest neighbors: offers each pair to the reservoirs of its row and of its column.
#pragma once

#include "cpu/simd/kernel_table.h"
#include "cpu/simd/knn_block_table.h"
#include "cpu/simd/switch_bools.h"
#include "cpu/simd/tile_engine.h"

namespace hardmine::cpu::HARDMINE_TARGET {

template <class T, bool kLargestWins, bool kSymmetric>
struct KnnVisitor {
  using V = Vec<T>;
  const PairwiseParams<T>& params;
  const Reservoirs<T>& reservoirs;

  void offer(int64_t owner, T key, Index index) const {
    // `worst` may have changed since the row of the tile was compared with it.
    if (!beats(key, index, reservoirs.worst_key[owner], reservoirs.worst_index[owner])) return;
    Neighbor<T>* candidates = reservoirs.candidates + owner * reservoirs.capacity;
    candidates[reservoirs.size[owner]++] = {key, index};
    if (reservoirs.size[owner] == reservoirs.capacity) reservoirs.compact(reservoirs, owner);
  }

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

  // Most scores are worse than `worst`, so the loop only checks whether any score of a row is not.
  void operator()(const T* tile, int64_t row, int64_t row_end, int64_t column) const {
    for (int64_t i = row; i < row_end; ++i) {
      const T* tile_row = tile + (i - row) * kPanel<T>;
      const V row_worst = V::broadcast(reservoirs.worst_key + i);
      typename V::Mask row_hit[kColumnVecs], column_hit[kColumnVecs];
      typename V::Mask any{};
#pragma GCC unroll 16
      for (int64_t v = 0; v < kColumnVecs; ++v) {
        V key = V::load(tile_row + v * V::kLanes);
        if constexpr (!kLargestWins) key = -key;
        row_hit[v] = key >= row_worst;
        any = v ? any | row_hit[v] : row_hit[v];
        if constexpr (kSymmetric) {
          column_hit[v] = key >= V::load(reservoirs.worst_key + column + v * V::kLanes);
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
struct KnnState {
  const PairwiseParams<T>* params;
  const Reservoirs<T>* reservoirs;
};

template <class T, bool kLargestWins, bool kSymmetric>
void visit_knn(const void* self, const T* tile, int64_t row, int64_t row_end, int64_t column) {
  const KnnState<T>& state = *static_cast<const KnnState<T>*>(self);
  KnnVisitor<T, kLargestWins, kSymmetric>{*state.params, *state.reservoirs}(tile, row, row_end, column);
}

template <class T>
void knn_block(const PairwiseParams<T>& params, const Block& block, const Reservoirs<T>& reservoirs) {
  using Visit = void (*)(const void*, const T*, int64_t, int64_t, int64_t);
  // Tiles of the Euclidean similarity hold squared distances: the smallest is the most similar.
  const Visit visit =
      switch_bools([]<bool kEuclidean, bool kSymmetric>() -> Visit { return visit_knn<T, !kEuclidean, kSymmetric>; },
                   params.euclidean, params.symmetric);
  const KnnState<T> state{&params, &reservoirs};
  const TileVisitor<T> visitor{PairKind::kAny, visit, &state};
  visit_block(params, &visitor, 1, block.row_begin, block.row_end, block.column_begin, block.column_end);
}

HARDMINE_PROVIDE_KERNELS(KnnKernels, .knn_block = knn_block<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
