// The matrix product of gradients: weights [rows, count] times rows [count, depth]. Weights come in strips of rows, so
// that only one strip is in memory at a time.
//
// Operands are rounded to what the MmaPolicy multiplies: the weights to BFloat16, Float16 or TF32, the rows to TF32.
// Sums are in MmaPolicy::acc_t, in an order that depends on the shapes only. Each row of Float16 weights is scaled into
// range by a power of two.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// The rows operand: x[i, :] / norm[i] - center.
template <class Scalar, class acc_t>
struct GradientGemmRows {
  const Scalar* x;  // [count, depth]
  int64_t count, depth;
  const acc_t* norm;    // [count]; null: 1. Of 2-byte rows the weights are divided instead, up to a power of two
  const acc_t* center;  // [depth]; null: 0; not for 2-byte rows
};

template <class acc_t>
struct WeightStrip {
  const acc_t* weight;  // [rows, columns]
  int64_t rows, columns;
};

// State shared by all products with the same rows. Valid as long as its workspace.
template <class MmaPolicy>
struct GradientGemm {
  using acc_t = typename MmaPolicy::acc_t;
  const char* rows;   // the transpose [depth, count], in panels
  const acc_t* norm;  // divides the weights, [count]; null: 1
  int64_t count, depth;
  char* weights;      // of one product, in panels
  int32_t* exponent;  // per row of weights: it is divided by 2^exponent; null: 0
  acc_t* partial;     // one sum per split
};

// A strip that is multiplied transposed begins at a multiple of this row.
inline constexpr int64_t kStripAlignment = 128;

// The products that a GradientGemm will be asked for.
struct GradientGemmPlan {
  int64_t strip_rows;              // the most rows of a strip
  bool untransposed = true;        // gradient_gemm or gradient_gemm_accumulate
  int64_t transposed_columns = 0;  // the most columns for gradient_gemm_transposed_accumulate; 0: it is not called
};

// Packs the rows, and allocates for the planned products. O((strip_rows + depth) count + strip_rows transposed_columns)
// memory.
template <class MmaPolicy, class Scalar>
GradientGemm<MmaPolicy> make_gradient_gemm(const GradientGemmRows<Scalar, typename MmaPolicy::acc_t>& rows,
                                           const GradientGemmPlan& planned, Workspace& workspace, const Stream& stream);

// out[r, :] = sum over c of weight[r, c] rows[c, :], for a strip of `count` columns.
template <class MmaPolicy>
void gradient_gemm(const GradientGemm<MmaPolicy>& gemm, const WeightStrip<typename MmaPolicy::acc_t>& strip,
                   typename MmaPolicy::acc_t* out, const Stream& stream);

// out[r, :] += the same sum.
template <class MmaPolicy>
void gradient_gemm_accumulate(const GradientGemm<MmaPolicy>& gemm, const WeightStrip<typename MmaPolicy::acc_t>& strip,
                              typename MmaPolicy::acc_t* out, const Stream& stream);

// out[c, :] += sum over r of weight[r, c] rows[first_row + r, :]. first_row is a multiple of kStripAlignment.
template <class MmaPolicy>
void gradient_gemm_transposed_accumulate(const GradientGemm<MmaPolicy>& gemm,
                                         const WeightStrip<typename MmaPolicy::acc_t>& strip, int64_t first_row,
                                         typename MmaPolicy::acc_t* out, const Stream& stream);

}  // namespace hardmine::cuda
