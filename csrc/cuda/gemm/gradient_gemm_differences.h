// The product of a strip of weights with differences of rows: out[r, :] = sum over c of weight[r, c] (column_c -
// row_r). Expanded to a product with rows minus row_r times its weights, it would cancel for close rows.
#pragma once

#include <algorithm>
#include <type_traits>

#include "core/int_math.h"
#include "cuda/device/launch.h"
#include "cuda/gemm/gradient_gemm.h"

namespace hardmine::cuda {

inline constexpr int kDifferenceThreads = 128;  // threads per block, one depth column each
inline constexpr int kDifferenceRows = 16;      // rows per block
inline constexpr int kDifferenceColumns = 32;   // columns whose weights are staged at a time

template <class Scalar, class acc_t>
struct GradientGemmDifferences {
  const Scalar* row;     // [strip.rows, depth]
  const Scalar* column;  // [strip.columns, depth]
  int64_t depth;
  WeightStrip<acc_t> strip;
  int64_t num_splits;  // splits of the columns
  bool compensated;    // sums in float keep the digits that cancel, for four times the additions
  acc_t* out;          // [num_splits, strip.rows, depth], to be summed over the splits
};

template <class Scalar, class acc_t, bool kCompensated>
__global__ void __launch_bounds__(kDifferenceThreads, 4)
    gradient_gemm_differences_kernel(GradientGemmDifferences<Scalar, acc_t> p) {
  acc_t* const weight = reinterpret_cast<acc_t*>(shared_memory());  // [kDifferenceColumns][kDifferenceRows]
  const int64_t groups = ceil_div(p.strip.rows, kDifferenceRows), depth_chunks = ceil_div(p.depth, kDifferenceThreads);
  for (int64_t i = blockIdx.x; i < groups * depth_chunks * p.num_splits; i += gridDim.x) {
    const int64_t first = i % groups * kDifferenceRows,
                  k = i / groups % depth_chunks * kDifferenceThreads + threadIdx.x;
    const int64_t split = i / (groups * depth_chunks), end = p.strip.columns * (split + 1) / p.num_splits;
    const bool inside = k < p.depth;
    acc_t row[kDifferenceRows], sum[kDifferenceRows], lost[kDifferenceRows];  // lost: what the sum has rounded away
#pragma unroll
    for (int r = 0; r < kDifferenceRows; ++r) {
      row[r] = inside && first + r < p.strip.rows ? to_acc(p.row[(first + r) * p.depth + k]) : acc_t(0);
      sum[r] = lost[r] = 0;
    }
    for (int64_t c = p.strip.columns * split / p.num_splits; c < end; c += kDifferenceColumns) {
      for (int n = threadIdx.x; n < kDifferenceRows * kDifferenceColumns; n += kDifferenceThreads) {
        const int64_t r = first + n / kDifferenceColumns, column = c + n % kDifferenceColumns;
        weight[n % kDifferenceColumns * kDifferenceRows + n / kDifferenceColumns] =
            r < p.strip.rows && column < end ? p.strip.weight[r * p.strip.columns + column] : acc_t(0);
      }
      __syncthreads();
      const int columns = end - c < kDifferenceColumns ? static_cast<int>(end - c) : kDifferenceColumns;
      for (int n = 0; inside && n < columns; ++n) {
        const acc_t column = to_acc(p.column[(c + n) * p.depth + k]);
#pragma unroll
        for (int r = 0; r < kDifferenceRows; ++r) {
          const acc_t w = weight[n * kDifferenceRows + r];
          if constexpr (kCompensated) {  // Kahan
            const acc_t term = fma(w, column - row[r], lost[r]), next = sum[r] + term;
            lost[r] = term - (next - sum[r]);
            sum[r] = next;
          } else {
            sum[r] = fma(w, column - row[r], sum[r]);
          }
        }
      }
      __syncthreads();  // before the weights are replaced
    }
#pragma unroll
    for (int r = 0; r < kDifferenceRows; ++r)
      if (inside && first + r < p.strip.rows) p.out[(split * p.strip.rows + first + r) * p.depth + k] = sum[r];
  }
}

// Enough splits to occupy a GPU, with a few tiles of columns each.
inline int64_t difference_splits(int64_t rows, int64_t columns, int64_t depth) {
  const int64_t blocks = std::max<int64_t>(1, rows * depth / (kDifferenceRows * kDifferenceThreads));
  return std::max<int64_t>(1, std::min<int64_t>(1024 / blocks, columns / (4 * kDifferenceColumns)));
}

template <class Scalar, class acc_t>
void gradient_gemm_differences(const GradientGemmDifferences<Scalar, acc_t>& product, const Stream& stream) {
  const int64_t groups = ceil_div(product.strip.rows, kDifferenceRows),
                depth_chunks = ceil_div(product.depth, kDifferenceThreads);
  auto* kernel = gradient_gemm_differences_kernel<Scalar, acc_t, false>;
  // In double, which has digits to spare, the compensated kernel would spill registers.
  if constexpr (std::is_same_v<acc_t, float>)
    if (product.compensated) kernel = gradient_gemm_differences_kernel<Scalar, acc_t, true>;
  launch("gradient_gemm_differences", kernel,
         {groups * depth_chunks * product.num_splits, kDifferenceThreads,
          kDifferenceRows * kDifferenceColumns * sizeof(acc_t)},
         stream, product);
}

}  // namespace hardmine::cuda
