// The gradient's matrix product: weights of a block's pairs times the rows of the other side.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

template <class T>
struct GradientKernels {
  // Packs sorted rows [begin, end), scaled as by `pack`, into panels of depth: element (row r, depth k) is at out[k /
  // panel_columns][r][k % panel_columns], with `padded` rows a panel.
  void (*pack_depth)(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t padded, int64_t begin,
                     int64_t end, T* out);

  // grad[row] += sum over columns of weights[row][column] value[column], or with `transposed` grad[column] += sum over
  // rows of weights[row][column] value[row]; with `own`, of differences to that instead, value[column] - own[row]. All
  // are in panels of depth, and point at the block's first row; `own` is laid out as grad.
  void (*gradient_gemm)(const Block& block, const T* weights, bool transposed, int64_t depth, const T* value,
                        int64_t value_padded, const T* own, T* grad, int64_t grad_padded);
};

}  // namespace hardmine::cpu
