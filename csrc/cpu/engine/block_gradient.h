// The gradient of a function of all similarities, summed over blocks of weights w = d function / d similarity
// (cpu/simd/gradient_gemm.h). A pair of rows x and y adds to the gradient of x
//   dot:        w y
//   cosine:     w y / |y|
//   euclidean:  w (y - x), where w includes the derivative of the distance, such as 1 / d.
// If rows are normalized, the sum is projected through x / |x| last.
#pragma once

#include "cpu/engine/pairwise_operands.h"
#include "cpu/simd/gradient_gemm_table.h"

namespace hardmine::cpu {

template <class T>
class BlockGradient {
 public:
  BlockGradient(const PairwiseOperands<T>& operands, const NeededGradients& needed, const ThreadPool& pool)
      : operands_(operands),
        row_kernels_(kernels<RowKernels<T>>()),
        kernel_(kernels<GradientKernels<T>>()),
        panel_(kernels<TileKernels<T>>().panel_columns),
        pool_(pool) {
    panels_ = ceil_div(operands.depth(), panel_);
    const bool euclidean = operands.params().euclidean;
    rows_.padded = round_up(operands.rows().count(), kBlockStep);
    if (needed.rows || operands.symmetric()) rows_.grad = zeros(rows_.padded);
    if (needed.columns || euclidean || operands.symmetric())
      rows_.value = packed(operands.anchors().x, operands.row_norm(), operands.rows(), rows_.padded);
    if (operands.symmetric()) return;
    columns_.padded = round_up(operands.columns().count(), kBlockStep);
    if (needed.columns) columns_.grad = zeros(columns_.padded);
    if (needed.rows || euclidean)
      columns_.value = packed(operands.refs().x, operands.column_norm(), operands.columns(), columns_.padded);
  }

  // Adds a block. Parallel calls are safe in the order of PairSchedule.
  void add(const Block& block, const T* weights) {
    const Operand& other = operands_.symmetric() ? rows_ : columns_;
    if (rows_.grad.get()) gradient_gemm(block, weights, false, other, block.column_begin, rows_, block.row_begin);
    if (other.grad.get()) gradient_gemm(block, weights, true, rows_, block.row_begin, other, block.column_begin);
  }

  // Writes the gradients [count, depth], times `factor`. A null gradient is not written.
  void finish(T factor, T* grad_rows, T* grad_columns) const {
    if (grad_rows) unpack(operands_.rows(), operands_.anchors().x, operands_.row_norm(), rows_, factor, grad_rows);
    if (grad_columns)
      unpack(operands_.columns(), operands_.refs().x, operands_.column_norm(), columns_, factor, grad_columns);
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

  int64_t threads_for(int64_t count) const {
    return thread_count_for(pool_, static_cast<double>(count) * static_cast<double>(operands_.depth()), kElementGrain);
  }

  // The kernel also reads the rows that pad the last micro-tile, so they must be finite.
  Buffer<T> packed(const T* x, const T* norm, const SortedRows<T>& rows, int64_t padded) const {
    Buffer<T> out = zeros(padded);
    parallel_range(pool_, threads_for(rows.count()), rows.count(), 1, [&](int64_t begin, int64_t end) {
      kernel_.pack_depth(x, operands_.depth(), rows.permutation().data(), norm, padded, begin, end, out.get());
    });
    return out;
  }

  Buffer<T> zeros(int64_t padded) const {
    const int64_t size = padded * panels_ * panel_;
    Buffer<T> out(size);
    constexpr int64_t kElementsPerChunk = 1 << 20;
    parallel_range(
        pool_, threads_for(padded), size, 1,
        [&](int64_t begin, int64_t end) { std::fill(out.get() + begin, out.get() + end, T(0)); }, kElementsPerChunk);
    return out;
  }

  void unpack(const SortedRows<T>& rows, const T* x, const T* norm, const Operand& side, T factor, T* grad) const {
    const int64_t depth = operands_.depth(), panel = panel_;
    parallel_range(pool_, threads_for(rows.count()), rows.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t source = rows.permutation()[r];
        T* out = grad + source * depth;
        for (int64_t k = 0; k < depth; k += panel)
          std::copy_n(side.grad.get() + k * side.padded + r * panel, std::min(panel, depth - k), out + k);
        if (factor != T(1))
          for (int64_t k = 0; k < depth; ++k) out[k] *= factor;
        if (norm) project(row_kernels_, out, x + source * depth, norm[source], depth);
      }
    });
  }

  const PairwiseOperands<T>& operands_;
  const RowKernels<T>& row_kernels_;
  const GradientKernels<T>& kernel_;
  const int64_t panel_;
  const ThreadPool& pool_;
  int64_t panels_;
  Operand rows_, columns_;
};

}  // namespace hardmine::cpu
