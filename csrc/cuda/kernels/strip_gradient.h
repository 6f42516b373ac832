// The gradient of a function of all similarities, one strip of rows at a time: a consumer writes the derivatives by all
// similarities of the strip, and their product with all columns is the gradient of its rows.
#pragma once

#include <type_traits>

#include "core/int_math.h"
#include "core/views.h"
#include "cuda/device/collectives.h"
#include "cuda/gemm/gradient_gemm.h"
#include "cuda/gemm/gradient_gemm_differences.h"
#include "cuda/gemm/packed_matrix.h"
#include "cuda/gemm/row_stats.h"

namespace hardmine::cuda {

// The smallest size of a strip of weights: enough to occupy a GPU. Only tests lower it.
inline constexpr int64_t kStripWeights = int64_t{1} << 23;

inline constexpr int kStripEpilogueThreads = 256;
inline constexpr int64_t kMaxStripEpilogueBlocks = 2048;

// From the product of a strip to the gradient of its rows.
template <class Scalar, class acc_t>
struct StripEpilogue {
  const Scalar* x;    // [all rows, depth]
  const acc_t* norm;  // [all rows], clamped from below; null: not normalized
  int64_t first_row, last_row, depth;
  const acc_t* product;  // [num_splits, strip rows, depth]
  int64_t num_splits;
  FiniteFlags<2> finite;  // all gradients are NaN if some row is not finite
  Scalar* grad;           // [all rows, depth]
};

// One row per warp.
template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kStripEpilogueThreads, 4)
    finalize_strip_kernel(StripEpilogue<Scalar, acc_t> epilogue) {
  constexpr int kWarps = kStripEpilogueThreads / 32;
  const bool propagate_nan = epilogue.finite.block_any_nonfinite();
  for (int64_t row = epilogue.first_row + int64_t{blockIdx.x} * kWarps + warp_index(); row < epilogue.last_row;
       row += int64_t{gridDim.x} * kWarps) {
    const Scalar* self = epilogue.x + row * epilogue.depth;
    const acc_t* product = epilogue.product + (row - epilogue.first_row) * epilogue.depth;
    const auto sum = [&](int64_t k) {
      acc_t value = product[k];
      for (int64_t split = 1; split < epilogue.num_splits; ++split)
        value += product[split * (epilogue.last_row - epilogue.first_row) * epilogue.depth + k];
      return value;
    };
    const acc_t norm = epilogue.norm ? epilogue.norm[row] : acc_t(1);
    acc_t radial = 0;
    const bool is_zero = epilogue.norm && !has_direction(norm);
    if (epilogue.norm && !is_zero) {
      for (int64_t k = lane_index(); k < epilogue.depth; k += 32) radial = fma(sum(k), to_acc(self[k]) / norm, radial);
      radial = warp_reduce_sum(radial);
    }
    for (int64_t k = lane_index(); k < epilogue.depth; k += 32) {
      acc_t value = is_zero ? acc_t(0) : sum(k);
      if (epilogue.norm) value = projected(value, to_acc(self[k]) / norm, radial, norm);
      epilogue.grad[row * epilogue.depth + k] =
          from_acc<Scalar>(propagate_nan ? std::numeric_limits<acc_t>::quiet_NaN() : value);
    }
  }
}

// A packed matrix and its row statistics, which a kernel writes with compute_row_stats() before run().
template <class MmaPolicy, class Scalar>
struct GradientOperand {
  LabeledMatrix<Scalar> rows;
  RowStats<Scalar, typename MmaPolicy::acc_t> stats;
  PackedMatrix<MmaPolicy> packed;
};

template <class MmaPolicy, class Scalar>
class StripGradient {
  using acc_t = typename MmaPolicy::acc_t;
  using Operand = GradientOperand<MmaPolicy, Scalar>;

 public:
  StripGradient(Similarity similarity, int64_t depth, int64_t strip_weights, Workspace& workspace, const Stream& stream)
      : measure_(measure_of(similarity)),
        is_hyperbolic_(similarity == Similarity::kHyperbolic),
        depth_(depth),
        strip_weights_(strip_weights),
        workspace_(workspace),
        stream_(stream) {}

  Operand operand(const LabeledMatrix<Scalar>& rows) const {
    Operand out{};
    out.rows = rows;
    out.stats = {
        .x = rows.x,
        .count = rows.count,
        .depth = depth_,
        .norm = measure_.normalized ? workspace_.array<acc_t>(rows.count) : nullptr,
        .finite = workspace_.array<int32_t>(finite_flag_count(rows.count)),
        .incidence_count = nullptr,
    };
    if (rows.count > 0) out.packed = pack_matrix<MmaPolicy>(rows.x, rows.count, depth_, measure_, workspace_, stream_);
    return out;
  }

  // The gradient of `rows`, from all their pairs with `columns`. make_weights(tiles, first_row, last_row, weight)
  // launches the kernel that writes the weights [last_row - first_row, columns] of a strip of so many tiles.
  template <class MakeWeights>
  void run(const Operand& rows, const Operand& columns, bool symmetric, Scalar* grad,
           const MakeWeights& make_weights) const {
    const int64_t count = rows.rows.count, column_count = columns.rows.count;
    if (count == 0) return;
    const int64_t max_rows = std::max(2 * depth_, strip_weights_ / std::max<int64_t>(column_count, 1));
    const int64_t strip =
        std::min(std::min(round_up(max_rows, kStripAlignment), round_up(count, kStripAlignment)), count);
    acc_t* const weight = workspace_.array<acc_t>(strip * column_count);
    StripSums sums(*this, strip, columns);
    for (int64_t first = 0; first < count; first += strip) {
      const int64_t last = std::min(first + strip, count);
      make_weights(panels_of<MmaPolicy>(last - first) * panels_of<MmaPolicy>(column_count), first, last, weight);
      sums.add_up(rows.rows.x + first * depth_, {weight, last - first, column_count});
      const StripEpilogue<Scalar, acc_t> epilogue{
          .x = rows.rows.x,
          .norm = rows.stats.norm,
          .first_row = first,
          .last_row = last,
          .depth = depth_,
          .product = sums.out,
          .num_splits = sums.num_splits,
          .finite = {{rows.stats.finite, columns.stats.finite},
                     {finite_flag_count(count), symmetric ? 0 : finite_flag_count(column_count)}},
          .grad = grad,
      };
      const int64_t blocks = ceil_div(last - first, kStripEpilogueThreads / 32);
      launch("finalize_strip", finalize_strip_kernel<Scalar, acc_t>,
             {std::min(blocks, kMaxStripEpilogueBlocks), kStripEpilogueThreads}, stream_, epilogue);
    }
  }

 private:
  // Weighted sums over the columns, per row of a strip: of the columns themselves, or of differences for distances.
  struct StripSums {
    const StripGradient& gradient;
    const Scalar* column;  // [columns, depth]
    int64_t num_splits = 1;
    acc_t* out;  // [num_splits, strip rows, depth]
    std::conditional_t<MmaPolicy::kSquaredDifferences, std::nullptr_t, GradientGemm<MmaPolicy>> gemm{};

    StripSums(const StripGradient& of, int64_t strip, const Operand& columns) : gradient(of), column(columns.rows.x) {
      const int64_t column_count = columns.rows.count, depth = of.depth_;
      if constexpr (MmaPolicy::kSquaredDifferences) {
        num_splits = difference_splits(strip, column_count, depth);
      } else {
        gemm = make_gradient_gemm<MmaPolicy>(
            GradientGemmRows<Scalar, acc_t>{column, column_count, depth, columns.stats.norm, nullptr},
            {.strip_rows = strip}, of.workspace_, of.stream_);
      }
      out = of.workspace_.template array<acc_t>(num_splits * strip * depth);
    }

    void add_up(const Scalar* row, const WeightStrip<acc_t>& strip) const {
      if constexpr (MmaPolicy::kSquaredDifferences) {
        gradient_gemm_differences(
            // Hyperbolic gradients near the boundary cancel.
            GradientGemmDifferences<Scalar, acc_t>{row, column, gradient.depth_, strip, num_splits,
                                                   gradient.is_hyperbolic_, out},
            gradient.stream_);
      } else {
        gradient_gemm<MmaPolicy>(gemm, strip, out, gradient.stream_);
      }
    }
  };

  const PairMeasure measure_;
  const bool is_hyperbolic_;
  const int64_t depth_, strip_weights_;
  Workspace& workspace_;
  const Stream& stream_;
};

}  // namespace hardmine::cuda
