// Log-sum-exps over the pairs of a block, and their derivatives.
#pragma once

#include "core/losses/pair_logit.h"
#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// The running sum of each row: of exp((s - shift) / temperature), where shift is the largest similarity s so far, and
// -infinity before the first. Arrays are padded to kBlockStep elements.
template <class T>
struct RunningLogSumExp {
  T* shift;        // null: these rows are not anchors
  double* sum;     // starts at 0
  double* offset;  // the sum of exp((s - shift) / temperature) (s - shift); null if not wanted
};

// Positives of each row; null if not wanted.
struct PositiveSums {
  double* sum;  // of similarities
  int64_t* count;
};

template <class T>
struct LogSumExpUpdate {
  T log2e_over_temperature;
  bool excludes_positives;  // positives are not in the log-sum-exp
  PairLogit<T> logit;       // sums and shifts are of logits
  const T* bound;           // of each row, if the pass is not symmetric; null: none
  RunningLogSumExp<T> rows;
  RunningLogSumExp<T> columns;  // if the pass is symmetric, those of the rows
  PositiveSums row_positives;
  PositiveSums column_positives;
};

// Coefficients per row: its contribution as an anchor to the derivative of the loss by the similarity s of a pair is
// weight exp((s - shift) / temperature), plus positive_weight if the labels are equal.
template <class T>
struct LogSumExpAnchors {
  const T* weight;  // null: these rows are not anchors
  const T* shift;   // infinity: the weight is 0
  const T* positive_weight;
};

template <class T>
struct LogSumExpWeights {
  T log2e_over_temperature;
  bool excludes_positives;
  PairLogit<T> logit;
  const T* bound;
  bool positives;  // some positive_weight is not 0
  LogSumExpAnchors<T> rows;
  LogSumExpAnchors<T> columns;
};

// Consumers of a block of scores (TileKernels::fill_block) of the pairs of the log-sum-exp, and of positives if these
// are wanted.
template <class T>
struct LogSumExpKernels {
  // Adds a block to the sums. Overwrites the scores.
  void (*logsumexp_update)(const PairwiseParams<T>& params, const Block& block, const LogSumExpUpdate<T>& update,
                           T* scores);
  // Replaces each score by the derivative of the loss by the similarity, divided by the distance if the pass is
  // Euclidean. Pads with zeros as gradient_gemm requires.
  void (*logsumexp_weights)(const PairwiseParams<T>& params, const Block& block, const LogSumExpWeights<T>& weights,
                            T* scores);
};

}  // namespace hardmine::cpu
