// The scores of all blocks of a pass, kept for a second pass over them where they take little memory.
#pragma once

#include "cpu/engine/buffer.h"
#include "cpu/engine/pairwise_operands.h"

namespace hardmine::cpu {

// What all threads together keep of scores; beyond it they are computed twice. Results are the same.
inline constexpr int64_t kMaxKeptBytes = int64_t{128} << 20;

template <class T>
class KeptScores {
 public:
  KeptScores() = default;  // keeps none
  // Keeps none if they would take much more memory than the inputs, or more than max_bytes.
  KeptScores(const PairwiseOperands<T>& operands, int64_t max_bytes)
      : column_blocks_(ceil_div(operands.columns().count(), kMaxBlockColumns)) {
    constexpr int64_t kMaxPerInput = 8;
    const int64_t size = ceil_div(operands.rows().count(), kMaxBlockRows) * column_blocks_ * kBlockSize;
    const int64_t inputs = (operands.rows().count() + operands.refs().count) * operands.depth();
    const int64_t bytes = size * static_cast<int64_t>(sizeof(T));
    if (size <= kMaxPerInput * inputs && bytes <= max_bytes) scores_ = Buffer<T>(size);
  }

  bool any() const { return scores_.get() != nullptr; }
  // Where the scores of a block are: its rows are kMaxBlockColumns elements apart. Blocks may be halves of those here,
  // and none crosses a multiple of kMaxBlockColumns (PairSchedule).
  T* at(const Block& block) const {
    const int64_t group = block.row_begin / kMaxBlockRows, b = block.column_begin / kMaxBlockColumns;
    return scores_.get() + (group * column_blocks_ + b) * kBlockSize + block.column_begin % kMaxBlockColumns;
  }
  // Copies the scores of a block, with the padding of TileKernels::fill_block, between two such places.
  static void copy(const Block& block, const T* from, T* to) {
    const int64_t width = round_up(block.columns(), int64_t{32});
    for (int64_t i = 0; i < block.rows(); ++i)
      std::copy_n(from + i * kMaxBlockColumns, width, to + i * kMaxBlockColumns);
  }

 private:
  static constexpr int64_t kBlockSize = kMaxBlockRows * kMaxBlockColumns;
  int64_t column_blocks_ = 0;
  Buffer<T> scores_;
};

}  // namespace hardmine::cpu
