// Blocks of scores, for consumers of many pairs at once: tiles are copied to a buffer in the second-level cache, whose
// rows are kMaxBlockColumns elements apart.
#pragma once

#include "core/int_math.h"
#include "cpu/simd/block_table.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/pack.h"
#include "cpu/simd/tile_engine.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Rows of a buffer are padded to a multiple of this, the most columns that a loop over a row takes at once.
inline constexpr int64_t kBufferStep = 32;

inline int64_t buffer_width(const Block& block) { return round_up(block.columns(), kBufferStep); }

template <class T>
struct FillState {
  const Block* block;
  T* scores;
};

template <class T>
void visit_fill(const void* self, const T* tile, int64_t row, int64_t row_end, int64_t column) {
  using V = Vec<T>;
  const FillState<T>& state = *static_cast<const FillState<T>*>(self);
  const int64_t first = column - state.block->column_begin;
  for (int64_t i = row; i < row_end; ++i) {
    const T* row_scores = tile + (i - row) * kPanel<T>;
    T* out = state.scores + (i - state.block->row_begin) * kMaxBlockColumns + first;
    for (int64_t c = 0; c < kPanel<T>; c += V::kLanes) V::load(row_scores + c).store(out + c);
  }
}

// True if all pairs of the block are of `kind`, so that the visitor writes every element of the buffer.
template <class T>
inline bool is_whole(const PairwiseParams<T>& params, PairKind kind, const Block& block) {
  if (block.columns() % kBufferStep || (params.symmetric && block.column_begin < block.row_end)) return false;
  if (kind == PairKind::kAny) return true;
  const int64_t *row = params.rows.label, *column = params.columns.label;
  if (kind == PairKind::kSameClass)
    return row[block.row_begin] == column[block.column_end - 1] && row[block.row_end - 1] == column[block.column_begin];
  return row[block.row_end - 1] < column[block.column_begin] || column[block.column_end - 1] < row[block.row_begin];
}

template <class T>
void fill_block(const PairwiseParams<T>& params, PairKind kind, const Block& block, T* scores) {
  if (!is_whole(params, kind, block)) {
    const int64_t width = buffer_width(block);
    for (int64_t i = 0; i < block.rows(); ++i)
      for (int64_t c = 0; c < width; ++c) scores[i * kMaxBlockColumns + c] = std::numeric_limits<T>::quiet_NaN();
  }
  const FillState<T> state{&block, scores};
  const TileVisitor<T> visitor{kind, visit_fill<T>, &state};
  visit_block(params, &visitor, 1, block.row_begin, block.row_end, block.column_begin, block.column_end);
}

// The similarity of a score.
template <bool kEuclidean, class T>
inline Vec<T> similarity_of(Vec<T> score) {
  if constexpr (kEuclidean) return -sqrt(score);
  return score;
}

// The columns [begin, end) of a block that have the label of a row. Labels ascend along the columns.
struct ClassRun {
  int64_t begin, end;
};
template <class T>
inline ClassRun class_run(const PairwiseParams<T>& params, const Block& block, int64_t row) {
  const int64_t label = params.rows.label[row];
  const int64_t* first = params.columns.label + block.column_begin;
  const int64_t columns = block.columns();
  if (first[columns - 1] < label || label < first[0]) return {0, 0};
  const int64_t begin = partition_point(int64_t{0}, columns, [&](int64_t c) { return first[c] < label; });
  int64_t end;
  for (end = begin; end < columns && first[end] == label;) ++end;
  return {begin, end};
}

HARDMINE_PROVIDE_KERNELS(TileKernels, .micro_tile_rows = kMicroTileRows, .panel_columns = kPanel<T>, .pack = pack<T>,
                         .fill_block = fill_block<T>, .pair_score = pair_score<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
