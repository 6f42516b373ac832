// The matrix product of the gradient: weights of a block's pairs times the rows of the other operand.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

template <class T>
struct GradientKernels {
  // Packs sorted rows [begin, end), normalized as by TileKernels::pack, into panels of depth with `padded` rows each:
  // element (row r, depth k) is at out[k / panel_columns][r][k % panel_columns].
  void (*pack_depth)(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t padded, int64_t begin,
                     int64_t end, T* out);

  // grad[row] += sum over columns of weights[row][column] value[column]. If transposed, grad[column] += sum over rows
  // of weights[row][column] value[row]. Unless row_value is null, differences value[column] - row_value[row] replace
  // values. All arrays are in panels of depth and point at the first row of the block. row_value has the layout of
  // grad.
  void (*gradient_gemm)(const Block& block, const T* weights, bool transposed, int64_t depth, const T* value,
                        int64_t value_padded, const T* row_value, T* grad, int64_t grad_padded);
};

}  // namespace hardmine::cpu
