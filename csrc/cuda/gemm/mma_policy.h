// How the scores of a tile are computed, and the layout of packed matrices that each policy reads.
//
// A panel holds the rows of one operand of a tile, depth outermost. Its stages of kStageBytes are copied to shared
// memory as they are. Both operands have the same layout. The last panel and the last stage are padded with zeros, so
// that no kernel checks bounds while it multiplies.
//
// Tensor cores: 16 rows and 32 bytes of depth form the fragments of one instruction. Lane 4 g + t finds its four words
// side by side: word h + 2 i holds row g + 8 h, word t + 4 i of the step. The second operand is the same words seen as
// columns, so one packed matrix serves both. Every load is 16 bytes per lane, without bank conflicts.
//
// SIMT: [depth][row], of which a thread reads four rows at a time.
#pragma once

#include <cmath>

#include "core/int_math.h"
#include "cuda/device/device.h"

namespace hardmine::cuda {

inline constexpr int kTileThreads = 128;  // four warps, two by two

// The shape of a thread's fragment, kRows x kColumns scores. The lanes of a warp form an 8 x 4 grid.
template <class AccT, int kRows_, int kColumns_, int kStageBytes_, int kStages_>
struct TileShape {
  using acc_t = AccT;
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kWarpRows = 8 * kRows, kWarpColumns = 4 * kColumns;
  static constexpr int kTile = 2 * kWarpRows;  // rows or columns of a panel
  static_assert(kTile == 2 * kWarpColumns);
  static constexpr int kStageBytes = kStageBytes_;  // per operand
  static constexpr int kStages = kStages_;          // in flight
  static constexpr size_t kSharedBytes = size_t{2} * kStageBytes * kStages;
};

// Products on tensor cores with float32 sums. kOperandsPerWord: operands in a word of 4 bytes.
template <class Operand, int kOperandsPerWord>
struct TensorCoreMma : TileShape<float, 8, 16, 16 * 1024, 3> {
  using Packed = Operand;  // the element type of a packed matrix
  static constexpr bool kTensorCores = true, kSquaredDifferences = false;
  static constexpr int kStepBytes = 32 * TensorCoreMma::kTile;
  static constexpr int kSteps = TensorCoreMma::kStageBytes / kStepBytes;
  static constexpr int kStageDepth = kSteps * 8 * kOperandsPerWord;

  // The byte offset in a panel of the element at a row, [0, kTile), and a depth.
  static __device__ __forceinline__ int64_t offset(int row, int64_t depth) {
    const int64_t step = depth / (8 * kOperandsPerWord);
    const int element = static_cast<int>(depth % (8 * kOperandsPerWord)), word = element / kOperandsPerWord;
    const int g = row % 8, h = row / 8 % 2, t = word % 4, i = word / 4;
    return step * kStepBytes + row / 16 * 512 + (4 * g + t) * 16 + (h + 2 * i) * 4 +
           element % kOperandsPerWord * (4 / kOperandsPerWord);
  }

  static __device__ __forceinline__ int row(int r) {
    return warp_index() / 2 * 64 + r / 2 * 16 + r % 2 * 8 + lane_index() / 4;
  }
  static __device__ __forceinline__ int column(int c) {
    return warp_index() % 2 * 64 + c / 2 * 8 + lane_index() % 4 * 2 + c % 2;
  }

  template <class Accumulator>
  static __device__ __forceinline__ void multiply_stage(const char* rows, const char* columns, Accumulator& sum) {
    rows += warp_index() / 2 * 4 * 512 + lane_index() * 16;
    columns += warp_index() % 2 * 4 * 512 + lane_index() * 16;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      Words a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = load_shared_16(rows + step * kStepBytes + i * 512);
        b[i] = load_shared_16(columns + step * kStepBytes + i * 512);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
          multiply_add(Operand{}, sum.at[2 * i][2 * j], sum.at[2 * i][2 * j + 1], sum.at[2 * i + 1][2 * j],
                       sum.at[2 * i + 1][2 * j + 1], a[i], b[j / 2].at[j % 2], b[j / 2].at[j % 2 + 2]);
    }
  }

  // The sums of one row and 32 columns from a multiple of 32 on, one per lane, with the same bits as in a tile. All
  // lanes of a warp call it. `scratch`: 32 elements of shared memory per warp.
  static __device__ __forceinline__ float row_sum(const char* rows, int row, const char* columns, int first_column,
                                                  int64_t depth, float* scratch) {
    float d[4][4] = {};
    rows += row / 16 * 512 + lane_index() * 16;
    columns += first_column / 16 * 512 + lane_index() * 16;
    const int64_t steps = stages_of_depth(depth) * kSteps;
    for (int64_t step = 0; step < steps; ++step) {
      const Words a = load_shared_16(rows + step * kStepBytes);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Words b = load_shared_16(columns + step * kStepBytes + j / 2 * 512);
        multiply_add(Operand{}, d[j][0], d[j][1], d[j][2], d[j][3], a, b.at[j % 2], b.at[j % 2 + 2]);
      }
    }
    __syncwarp();  // before `scratch` is overwritten
    if (lane_index() / 4 == row % 8) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 2; ++i) scratch[8 * j + lane_index() % 4 * 2 + i] = row / 8 % 2 ? d[j][2 + i] : d[j][i];
    }
    __syncwarp();
    return scratch[lane_index()];
  }

 private:
  static HARDMINE_HD int64_t stages_of_depth(int64_t depth) { return ceil_div(depth, kStageDepth); }

  static __device__ __forceinline__ void multiply_add(BFloat16, float& d0, float& d1, float& d2, float& d3,
                                                      const Words& a, uint32_t b0, uint32_t b1) {
    mma_m16n8k16_bf16(d0, d1, d2, d3, a, b0, b1);
  }
  static __device__ __forceinline__ void multiply_add(Float16, float& d0, float& d1, float& d2, float& d3,
                                                      const Words& a, uint32_t b0, uint32_t b1) {
    mma_m16n8k16_f16(d0, d1, d2, d3, a, b0, b1);
  }
  static __device__ __forceinline__ void multiply_add(float, float& d0, float& d1, float& d2, float& d3, const Words& a,
                                                      uint32_t b0, uint32_t b1) {
    mma_m16n8k8_tf32(d0, d1, d2, d3, a, b0, b1);
  }
};

// What a score sums over the depths of its two rows.
enum class PairSum { kProducts, kSquaredDifferences };

// Fused multiply-adds in the accumulator type: of products, or of squared differences, which keep the digits of close
// rows far from the origin.
template <class AccT, PairSum kSum, int kRows, int kColumns, int kStages>
struct SimtMma : TileShape<AccT, kRows, kColumns, 8 * 1024, kStages> {
  using Shape = TileShape<AccT, kRows, kColumns, 8 * 1024, kStages>;
  using acc_t = AccT;
  using Packed = AccT;
  static constexpr bool kTensorCores = false, kSquaredDifferences = kSum == PairSum::kSquaredDifferences;
  static constexpr int kStageDepth = Shape::kStageBytes / (Shape::kTile * sizeof(acc_t));

  static __device__ __forceinline__ int64_t offset(int row, int64_t depth) {
    return (depth * Shape::kTile + row) * static_cast<int64_t>(sizeof(acc_t));
  }

  static __device__ __forceinline__ int row(int r) {
    return warp_index() / 2 * Shape::kWarpRows + r / 4 * 32 + lane_index() / 4 * 4 + r % 4;
  }
  static __device__ __forceinline__ int column(int c) {
    return warp_index() % 2 * Shape::kWarpColumns + c / 4 * 16 + lane_index() % 4 * 4 + c % 4;
  }

  template <class Accumulator>
  static __device__ __forceinline__ void multiply_stage(const char* rows, const char* columns, Accumulator& sum) {
    struct alignas(16) Four {
      acc_t at[4];
    };
    const acc_t* row_values = reinterpret_cast<const acc_t*>(rows) + row(0);
    const acc_t* column_values = reinterpret_cast<const acc_t*>(columns) + column(0);
#pragma unroll 4
    for (int k = 0; k < kStageDepth; ++k) {
      Four a[kRows / 4], b[kColumns / 4];
#pragma unroll
      for (int i = 0; i < kRows / 4; ++i) a[i] = *reinterpret_cast<const Four*>(row_values + k * Shape::kTile + 32 * i);
#pragma unroll
      for (int j = 0; j < kColumns / 4; ++j)
        b[j] = *reinterpret_cast<const Four*>(column_values + k * Shape::kTile + 16 * j);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
          sum.at[r][c] = multiply_add(a[r / 4].at[r % 4], b[c / 4].at[c % 4], sum.at[r][c]);
    }
  }

  // As TensorCoreMma::row_sum; `scratch` is not used.
  static __device__ __forceinline__ acc_t row_sum(const char* rows, int row, const char* columns, int first_column,
                                                  int64_t depth, acc_t*) {
    const acc_t* x = reinterpret_cast<const acc_t*>(rows) + row;
    const acc_t* y = reinterpret_cast<const acc_t*>(columns) + first_column + lane_index();
    acc_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum = multiply_add(x[k * Shape::kTile], y[k * Shape::kTile], sum);
    return sum;
  }

 private:
  static __device__ __forceinline__ acc_t multiply_add(acc_t x, acc_t y, acc_t sum) {
    if constexpr (!kSquaredDifferences) return fma(x, y, sum);
    return fma(x - y, x - y, sum);
  }
};

using Bfloat16Products = TensorCoreMma<BFloat16, 2>;
using Float16Products = TensorCoreMma<Float16, 2>;
using Tf32Products = TensorCoreMma<float, 1>;
using FloatProducts = SimtMma<float, PairSum::kProducts, 8, 16, 4>;
using FloatSquaredDifferences = SimtMma<float, PairSum::kSquaredDifferences, 8, 16, 4>;
using DoubleProducts = SimtMma<double, PairSum::kProducts, 4, 8, 4>;
using DoubleSquaredDifferences = SimtMma<double, PairSum::kSquaredDifferences, 4, 8, 4>;

// Every policy that scores are computed with, with every type of rows that it is used for.
#define HARDMINE_FOR_EVERY_MMA_POLICY(instantiate)                                                               \
  instantiate(Bfloat16Products, BFloat16) instantiate(Float16Products, Float16) instantiate(Tf32Products, float) \
      instantiate(FloatProducts, float) instantiate(FloatSquaredDifferences, float)                              \
          instantiate(FloatSquaredDifferences, BFloat16) instantiate(FloatSquaredDifferences, Float16)           \
              instantiate(DoubleProducts, double) instantiate(DoubleSquaredDifferences, double)

// Panels for `count` rows, and stages for a depth.
template <class MmaPolicy>
HARDMINE_HD int64_t panels_of(int64_t count) {
  return ceil_div(count, MmaPolicy::kTile);
}
template <class MmaPolicy>
HARDMINE_HD int64_t stages_of(int64_t depth) {
  return ceil_div(depth, MmaPolicy::kStageDepth);
}
template <class MmaPolicy>
HARDMINE_HD int64_t panel_bytes(int64_t depth) {
  return stages_of<MmaPolicy>(depth) * MmaPolicy::kStageBytes;
}

}  // namespace hardmine::cuda
