// The gradient of a function of all similarities, summed over blocks of weights w = d function / d similarity
// (cpu/simd/gradient_gemm.h). A pair of rows x and y adds to the gradient of x
//   dot:        w y
//   cosine:     w y / |y|
//   euclidean:  w (y - x), where w includes the derivative of the distance, such as 1 / d.
// If rows are normalized, the sum is projected through x / |x| last.
#pragma once

#include "cpu/engine/depth_panels.h"
#include "cpu/engine/pairwise_operands.h"

namespace hardmine::cpu {

template <class T>
class BlockGradient {
 public:
  BlockGradient(const PairwiseOperands<T>& operands, const NeededGradients& needed, const ThreadPool& pool)
      : operands_(operands),
        kernel_(kernels<GradientKernels<T>>()),
        panel_(kernels<TileKernels<T>>().panel_columns),
        pool_(pool) {
    const bool euclidean = operands.params().euclidean;
    rows_.padded = round_up(operands.rows().count(), kBlockStep);
    if (needed.rows || operands.symmetric()) rows_.grad = zero_panels<T>(rows_.padded, operands.depth(), pool);
    if (needed.columns || euclidean || operands.symmetric())
      rows_.value = packed_panels(operands.rows(), operands.anchors().x, operands.row_norm(), rows_.padded,
                                  operands.depth(), pool);
    if (operands.symmetric()) return;
    columns_.padded = round_up(operands.columns().count(), kBlockStep);
    if (needed.columns) columns_.grad = zero_panels<T>(columns_.padded, operands.depth(), pool);
    if (needed.rows || euclidean)
      columns_.value = packed_panels(operands.columns(), operands.refs().x, operands.column_norm(), columns_.padded,
                                     operands.depth(), pool);
  }

  // Adds a block, and may overwrite its weights. Parallel calls are safe in the order of PairSchedule.
  void add(const Block& block, T* weights) {
    const Operand& other = operands_.symmetric() ? rows_ : columns_;
    if (operands_.symmetric() && block.row_begin == block.column_begin && block.row_end == block.column_end) {
      // Only pairs with row < column have a weight. Mirrored, one product serves both rows of each pair.
      for (int64_t i = 0; i < block.rows(); ++i)
        for (int64_t c = i + 1; c < block.columns(); ++c)
          weights[c * kMaxBlockColumns + i] = weights[i * kMaxBlockColumns + c];
      return gradient_gemm(block, weights, false, rows_, block.column_begin, rows_, block.row_begin);
    }
    if (rows_.grad.get()) gradient_gemm(block, weights, false, other, block.column_begin, rows_, block.row_begin);
    if (other.grad.get()) gradient_gemm(block, weights, true, rows_, block.row_begin, other, block.column_begin);
  }

  // Writes the gradients [count, depth], times `factor`. A null gradient is not written.
  void finish(T factor, T* grad_rows, T* grad_columns) const {
    if (grad_rows)
      write_gradient_rows(rows_.grad.get(), rows_.padded, operands_.rows(), operands_.anchors().x, operands_.row_norm(),
                          operands_.depth(), factor, pool_, grad_rows);
    if (grad_columns)
      write_gradient_rows(columns_.grad.get(), columns_.padded, operands_.columns(), operands_.refs().x,
                          operands_.column_norm(), operands_.depth(), factor, pool_, grad_columns);
  }

 private:
  // Rows and their gradients in panels of depth; null if not needed.
  struct Operand {
    int64_t padded = 0;
    Buffer<T> value, grad;
  };

  void gradient_gemm(const Block& block, const T* weights, bool transposed, const Operand& from, int64_t from_row,
                     const Operand& to, int64_t to_row) const {
    kernel_.gradient_gemm(block, weights, transposed, operands_.depth(), from.value.get() + from_row * panel_,
                          from.padded, operands_.params().euclidean ? to.value.get() + to_row * panel_ : nullptr,
                          to.grad.get() + to_row * panel_, to.padded);
  }

  const PairwiseOperands<T>& operands_;
  const GradientKernels<T>& kernel_;
  const int64_t panel_;
  const ThreadPool& pool_;
  Operand rows_, columns_;
};

}  // namespace hardmine::cpu
