// The consumer of the tuplet losses' backward pass: replaces the scores of a strip by the derivatives of the loss by
// their similarities.
#pragma once

#include <limits>

#include "core/losses/tuplet_terms.h"
#include "cuda/gemm/tile_labels.h"

namespace hardmine::cuda {

// AnchorCoefficients as arrays, [anchors] each.
template <class acc_t>
struct TupletCoefficients {
  acc_t* negative_weight;  // null: the rows of this operand are not anchors
  acc_t* shift;
  acc_t* positive_weight;
  acc_t* log_sum;
  Index* positive;  // the anchor's one positive; kBelowRange: none
};

template <class MmaPolicy>
struct TupletWeightParams : PairwiseOperands<MmaPolicy> {
  using acc_t = typename MmaPolicy::acc_t;
  TupletCoefficients<acc_t> row_coefficients, column_coefficients;
  bool all, one_shift;
  acc_t log2e_over_temperature, inverse_temperature, limit;  // as in TupletParams
  int64_t first_row, last_row;                               // rows of the strip; first_row begins a panel
  acc_t* weight;                                             // [last_row - first_row, columns]: the output
};

// The coefficients of one row of a pair; those of a ref are neutral.
template <class acc_t>
struct TupletAnchor : AnchorCoefficients<acc_t> {
  Index positive = kBelowRange;

  __device__ __forceinline__ TupletAnchor(const TupletCoefficients<acc_t>& coefficients, int64_t i, int64_t count) {
    if (!coefficients.negative_weight || i >= count) return;
    this->negative_weight = coefficients.negative_weight[i];
    this->shift = coefficients.shift[i];
    this->positive_weight = coefficients.positive_weight[i];
    this->log_sum = coefficients.log_sum[i];
    positive = coefficients.positive[i];
  }
};

template <class MmaPolicy, Ids kIds>
class TupletWeightTile {
  using acc_t = typename MmaPolicy::acc_t;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;

 public:
  __device__ __forceinline__ explicit TupletWeightTile(const TupletWeightParams<MmaPolicy>& params)
      : params_(params), labels_(shared_memory() + MmaPolicy::kSharedBytes) {}

  __device__ __forceinline__ void visit(int64_t row_panel, int64_t column_panel) {
    const int64_t first_row = row_panel * kTile, first_column = column_panel * kTile;
    labels_.read(params_, first_row, first_column);
    make_candidate_tile<kIds>(params_.rows, params_.columns, params_.ids, row_panel, column_panel, fragment_);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first_row + MmaPolicy::row(r);
      if (row >= params_.last_row) continue;
      const TupletAnchor<acc_t> of_row(params_.row_coefficients, row, params_.rows.count);
      const int64_t label = labels_.row[MmaPolicy::row(r)];
      acc_t* const weight_row = params_.weight + (row - params_.first_row) * params_.columns.count;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t column = first_column + MmaPolicy::column(c);
        if (column >= params_.columns.count) continue;
        const TupletAnchor<acc_t> of_column(params_.column_coefficients, column, params_.columns.count);
        const acc_t score = fragment_.at[r][c];
        acc_t weight = 0;
        if (label != labels_.column[MmaPolicy::column(c)]) {
          const acc_t similarity = similarity_from_score(MmaPolicy::kSquaredDifferences, score);
          weight = score == score ? of_negative(of_row, of_column, similarity) : acc_t(0);  // NaN: excluded by ids
        } else if (!(params_.symmetric && row == column)) {
          weight = -(params_.all ? of_positive(of_row, of_column, score) : of_chosen(of_row, of_column, row, column));
        }
        if constexpr (MmaPolicy::kSquaredDifferences) {
          // s = -d, so ds / dx = (y - x) / d. At d = 0 the subgradient is 0, as in PyTorch's norm.
          weight = score >= std::numeric_limits<acc_t>::min() ? weight / std::sqrt(score) : acc_t(0);
        }
        weight_row[column] = weight;
      }
    }
    __syncthreads();  // before the next tile's labels
  }

 private:
  // d loss / d s = negative_weight exp((s - shift) / t) per anchor.
  __device__ __forceinline__ acc_t of_negative(const TupletAnchor<acc_t>& row, const TupletAnchor<acc_t>& column,
                                               acc_t similarity) const {
    if (params_.one_shift)
      return (row.negative_weight + column.negative_weight) *
             std::exp2((similarity - acc_t(1)) * params_.log2e_over_temperature);
    acc_t weight = 0;
    if (params_.row_coefficients.negative_weight)
      weight = row.negative_weight * std::exp2((similarity - row.shift) * params_.log2e_over_temperature);
    if (params_.column_coefficients.negative_weight)
      weight =
          fma(column.negative_weight, std::exp2((similarity - column.shift) * params_.log2e_over_temperature), weight);
    return weight;
  }

  // -d loss / d s = positive_weight for the anchor's one positive. Each row may be the other's.
  static __device__ __forceinline__ acc_t of_chosen(const TupletAnchor<acc_t>& of_row,
                                                    const TupletAnchor<acc_t>& of_column, int64_t row, int64_t column) {
    return (of_row.positive == column ? of_row.positive_weight : acc_t(0)) +
           (of_column.positive == row ? of_column.positive_weight : acc_t(0));
  }

  // -d loss / d s = positive_weight sigmoid((shift - s) / t + log_sum) per anchor, if all positives count.
  __device__ __forceinline__ acc_t of_positive(const TupletAnchor<acc_t>& row, const TupletAnchor<acc_t>& column,
                                               acc_t score) const {
    if (!(key_from_score(MmaPolicy::kSquaredDifferences, score) <= params_.limit)) return 0;
    const acc_t similarity = similarity_from_score(MmaPolicy::kSquaredDifferences, score);
    const auto slope = [&](const TupletAnchor<acc_t>& anchor) {
      return anchor.positive_weight == acc_t(0)
                 ? acc_t(0)
                 : anchor.positive_weight *
                       sigmoid(fma(anchor.shift - similarity, params_.inverse_temperature, anchor.log_sum));
    };
    return slope(row) + slope(column);
  }

  const TupletWeightParams<MmaPolicy>& params_;
  const TileLabels<MmaPolicy> labels_;
  Fragment<MmaPolicy> fragment_;
};

}  // namespace hardmine::cuda
