// Products of a matrix of weights with the rows of a matrix, as gradients of all pairs need them, strip by strip of the
// weights, so that no more than a strip of them is there at a time.
//
// Factors are rounded to what the mma_policy multiplies: of BFloat16, Float16 and TF32 the weights, of TF32 the rows,
// too. Sums are in MmaPolicy::acc_t, in an order that depends on the shapes only. Weights of Float16 are brought into
// its range row by row, by powers of two.
#pragma once

#include "cuda/device/launch.h"
#include "cuda/device/workspace.h"
#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// The rows of a product: x[i, :] / norm[i] - center.
template <class Scalar, class acc_t>
struct GradientGemmRows {
  const Scalar* x;  // [count, depth]
  int64_t count, depth;
  const acc_t* norm;    // [count]; null: 1. Of numbers of 2 bytes the weights are divided, up to a power of two
  const acc_t* center;  // [depth]; null: 0; not for numbers of 2 bytes
};

template <class acc_t>
struct WeightStrip {
  const acc_t* weight;  // [rows, columns]
  int64_t rows, columns;
};

// What all gemm of strips with the same rows split; valid as long as its workspace.
template <class MmaPolicy>
struct GradientGemm {
  using acc_t = typename MmaPolicy::acc_t;
  const char* rows;   // their transpose [depth, count], in panels
  const acc_t* norm;  // of the weights, [count]; null: 1
  int64_t count, depth;
  char* weights;      // of one product, in panels
  int32_t* exponent;  // of the powers of two that its rows of weights are divided by; null: by nothing
  acc_t* partial;     // sums of num_splits of it
};

// Rows of strips of which a product with its transpose begins are multiples of this.
inline constexpr int64_t kStripAlignment = 128;

// Packs the rows, and takes the memory for any number of gemm of strips with at most `strip_rows` rows: those of
// gradient_gemm, if `straight`, and those of gradient_gemm_transposed_accumulate with at most `transposed_columns`
// columns; 0: none of these. O((strip_rows + depth) count + strip_rows transposed_columns) memory.
template <class MmaPolicy, class Scalar>
GradientGemm<MmaPolicy> make_gradient_gemm(const GradientGemmRows<Scalar, typename MmaPolicy::acc_t>& rows,
                                           int64_t strip_rows, bool straight, int64_t transposed_columns,
                                           Workspace& workspace, const Stream& stream);

// out[r, :] = sum over c of weight[r, c] rows[c, :]; a strip of `count` columns.
template <class MmaPolicy>
void gradient_gemm(const GradientGemm<MmaPolicy>& gemm, const WeightStrip<typename MmaPolicy::acc_t>& strip,
                   typename MmaPolicy::acc_t* out, const Stream& stream);

// Adds that to out.
template <class MmaPolicy>
void gradient_gemm_accumulate(const GradientGemm<MmaPolicy>& gemm, const WeightStrip<typename MmaPolicy::acc_t>& strip,
                              typename MmaPolicy::acc_t* out, const Stream& stream);

// out[c, :] += sum over r of weight[r, c] rows[first_row + r, :]; first_row is a multiple of kStripAlignment.
template <class MmaPolicy>
void gradient_gemm_transposed_accumulate(const GradientGemm<MmaPolicy>& gemm,
                                         const WeightStrip<typename MmaPolicy::acc_t>& strip, int64_t first_row,
                                         typename MmaPolicy::acc_t* out, const Stream& stream);

}  // namespace hardmine::cuda
