// The tuplet losses: sums of exponentials and of softplus over a block of similarities, and the derivatives.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// The sums that a log-sum-exp over the pairs of a pass needs: exp2((s - shift) log2e_over_temperature) of every pair,
// added up for its row and, where column_sum is not null, for its column. s is the similarity, and log2(e) /
// temperature the factor.
template <class T>
struct ExponentialSums {
  T log2e_over_temperature;
  T shift;                // of all rows and columns, if row_shift is null
  const T* row_shift;     // one a row
  const T* column_shift;  // one a column
  double* row_sum;
  double* column_sum;
};

// softplus(x), x = (shift - s) / temperature + log_sum, of every pair of equal labels and s <= limit, added up
// likewise, with its slope sigmoid(x), and the number of pairs.
template <class T>
struct SoftplusSums {
  T inv_temperature;
  T limit;  // largest admissible number in the order of similarities (core/selection.h)
  const T* row_shift;
  const T* column_shift;
  const T* row_log_sum;
  const T* column_log_sum;
  double* row_sum;
  double* column_sum;  // null, like the other two: not wanted
  double* row_slope;
  double* column_slope;
  int64_t* row_count;
  int64_t* column_count;
};

// What one side of a pair, its row or its column, contributes to the derivative of the tuplet losses with respect to
// the pair's similarity s, if it is the anchor.
template <class T>
struct TupletAnchors {
  // If the other side is a negative: negative_weight exp2((s - shift) log2e_over_temperature).
  const T* negative_weight;
  const T* shift;
  // If it is a positive: -positive_weight sigmoid((shift - s) / temperature + log_sum) with all positives, else
  // -positive_weight if it is the selected one.
  const T* positive_weight;
  const T* log_sum;
  const Index* positive;  // the selected one's number, or null
};

template <class T>
struct TupletWeights {
  T log2e_over_temperature;
  T inv_temperature;
  bool one_shift;  // all shifts are this one
  T shift;
  T limit;
  TupletAnchors<T> rows;
  TupletAnchors<T> columns;  // used where the pass is symmetric
};

// What becomes of a filled block (see TileKernels) of other-class pairs, of same-class pairs, and of all pairs, in
// turn.
template <class T>
struct TupletKernels {
  void (*exponential_sums)(const PairwiseParams<T>& params, const Block& block, const T* scores,
                           const ExponentialSums<T>& sums);
  void (*softplus_sums)(const PairwiseParams<T>& params, const Block& block, const T* scores,
                        const SoftplusSums<T>& sums);
  // Replaces each number by the derivative of the loss with respect to the pair's similarity - divided by the distance
  // where the pass is Euclidean - and fills up with zeros what `gradient_gemm` reads.
  void (*tuplet_weights)(const PairwiseParams<T>& params, const Block& block, const TupletWeights<T>& weights,
                         T* scores);
};

}  // namespace hardmine::cpu
