// The sigmoid loss: sums over a block, and the derivatives.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// Sums over all pairs of each row, [rows] each (core/losses/sigmoid_loss.h). Pairs of equal labels are positives.
template <class T>
struct SigmoidRowSums {
  T scale, bias;
  double* value;
  double* by_scale;
  double* by_bias;
};

template <class T>
struct SigmoidWeights {
  T scale, bias;
  const T* row_weight;  // [rows]: the gradient of the row's value, times the scale
};

// Consumers of a block of scores (TileKernels::fill_block) of all pairs.
template <class T>
struct SigmoidKernels {
  // With row_weights (those of SigmoidWeights), also replaces the scores as sigmoid_weights does.
  void (*sigmoid_sums)(const PairwiseParams<T>& params, const Block& block, const SigmoidRowSums<T>& sums,
                       const T* row_weights, T* scores);
  // Replaces each score by the derivative of the loss by the similarity, divided by the distance if the pass is
  // Euclidean. Pads with zeros as gradient_gemm requires.
  void (*sigmoid_weights)(const PairwiseParams<T>& params, const Block& block, const SigmoidWeights<T>& weights,
                          T* scores);
};

}  // namespace hardmine::cpu
