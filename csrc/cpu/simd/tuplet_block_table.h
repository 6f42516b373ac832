// The tuplet losses: sums of exponentials and of softplus over a block, and the derivatives.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// Sums for a log-sum-exp: exp2((s - shift) log2e_over_temperature) of each pair with similarity s is added to the sum
// of its row and, unless column_sum is null, to that of its column.
template <class T>
struct ExponentialSums {
  T log2e_over_temperature;
  T shift;                // for all rows and columns if row_shift is null
  const T* row_shift;     // [rows]
  const T* column_shift;  // [columns]
  double* row_sum;
  double* column_sum;
};

// Sums of softplus(x), x = (shift - s) / temperature + log_sum, and of its slope sigmoid(x), over the pairs with equal
// labels and key <= limit, and the number of these pairs.
template <class T>
struct SoftplusSums {
  T inv_temperature;
  T limit;  // the largest admissible key (core/selection.h)
  const T* row_shift;
  const T* column_shift;
  const T* row_log_sum;
  const T* column_log_sum;
  double* row_sum;
  double* column_sum;  // null, as column_slope and column_count, if not wanted
  double* row_slope;
  double* column_slope;
  int64_t* row_count;
  int64_t* column_count;
};

// Coefficients per row: its contribution as an anchor to the derivative of the loss by the similarity s of a pair.
template <class T>
struct TupletAnchors {
  // A pair with a negative: negative_weight exp2((s - shift) log2e_over_temperature).
  const T* negative_weight;
  const T* shift;
  // A pair with a positive: -positive_weight sigmoid((shift - s) / temperature + log_sum) with all positives, else
  // -positive_weight for the selected positive.
  const T* positive_weight;
  const T* log_sum;
  const Index* positive;  // the index of the selected positive; null with all positives
};

template <class T>
struct TupletWeights {
  T log2e_over_temperature;
  T inv_temperature;
  bool one_shift;  // `shift` is that of all anchors
  T shift;
  T limit;
  TupletAnchors<T> rows;
  TupletAnchors<T> columns;  // read if the pass is symmetric
};

// Consumers of a block of scores (TileKernels::fill_block): of other-class pairs, of same-class pairs, and of all
// pairs.
template <class T>
struct TupletKernels {
  void (*exponential_sums)(const PairwiseParams<T>& params, const Block& block, const T* scores,
                           const ExponentialSums<T>& sums);
  void (*softplus_sums)(const PairwiseParams<T>& params, const Block& block, const T* scores,
                        const SoftplusSums<T>& sums);
  // Replaces each score by the derivative of the loss by the similarity, divided by the distance if the pass is
  // Euclidean. Pads with zeros as gradient_gemm requires.
  void (*tuplet_weights)(const PairwiseParams<T>& params, const Block& block, const TupletWeights<T>& weights,
                         T* scores);
};

}  // namespace hardmine::cpu
