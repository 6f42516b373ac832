// The kernels of the sigmoid loss.
#pragma once

#include "cpu/simd/block.h"
#include "cpu/simd/block_reductions.h"
#include "cpu/simd/gradient_gemm.h"
#include "cpu/simd/kernel_table.h"
#include "cpu/simd/sigmoid_block_table.h"
#include "cpu/simd/switch_bools.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Of each column of a row: 1 for a negative, -1 for a positive.
template <class T>
struct PairSigns {
  alignas(64) T sign[kMaxBlockColumns];

  PairSigns() {
    for (int64_t c = 0; c < kMaxBlockColumns; ++c) sign[c] = T(1);
  }
  // Calls use() with the signs of a row.
  template <class Use>
  void with_row(const PairwiseParams<T>& params, const Block& block, int64_t row, const Use& use) {
    const ClassRun run = class_run(params, block, row);
    for (int64_t c = run.begin; c < run.end; ++c) sign[c] = T(-1);
    use();
    for (int64_t c = run.begin; c < run.end; ++c) sign[c] = T(1);
  }
};

// The derivative of the loss by what the score stands for, from that by the similarity.
template <bool kEuclidean, class T>
inline Vec<T> sigmoid_weight(Vec<T> score, Vec<T> by_similarity) {
  using V = Vec<T>;
  V weight = by_similarity;
  if constexpr (kEuclidean) {
    // s = -d, so ds / dx = (y - x) / d. At d = 0 the subgradient is 0, as for PyTorch's norm.
    weight = V::select(score >= constant<T>(std::numeric_limits<T>::min()), weight / sqrt(score), V::zero());
  }
  return V::select(score >= score, weight, V::zero());
}

// kWeights: also replaces each score by its weight.
template <bool kEuclidean, bool kWeights, class T>
void sigmoid_sums_of(const PairwiseParams<T>& params, const Block& block, const SigmoidRowSums<T>& sums,
                     const T* row_weights, T* scores) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const V scale = V::broadcast(&sums.scale), bias = V::broadcast(&sums.bias);
  const T no_tail[kPartials] = {};
  PairSigns<T> signs;
  for (int64_t i = 0; i < block.rows(); ++i) {
    T* row_scores = scores + i * kMaxBlockColumns;
    const int64_t row = block.row_begin + i;
    const V row_weight = kWeights ? V::broadcast(row_weights + row) : V::zero();
    signs.with_row(params, block, row, [&] {
      Partials<T> value, by_scale, by_bias;
      for (int64_t c = 0; c < width; c += kPartials) {
#pragma GCC unroll 16
        for (int64_t v = 0; v < Partials<T>::kVecs; ++v) {
          const int64_t k = c + v * V::kLanes;
          const V score = V::load(row_scores + k), s = similarity_of<kEuclidean>(score), sign = V::load(signs.sign + k);
          const V x = sign * fma(s, scale, bias), e = decay(x);
          const auto known = s >= s;  // no padding
          const V of_pair = sign * sigmoid(x, e), slope = V::select(known, of_pair, V::zero());
          if constexpr (kWeights) sigmoid_weight<kEuclidean>(score, row_weight * of_pair).store(row_scores + k);
          value.sum[v] = value.sum[v] + V::select(known, softplus(x, e), V::zero());
          by_bias.sum[v] = by_bias.sum[v] + slope;
          by_scale.sum[v] = by_scale.sum[v] + V::select(known, slope * s, V::zero());
        }
      }
      sums.value[row] += static_cast<double>(value.total(no_tail));
      sums.by_scale[row] += static_cast<double>(by_scale.total(no_tail));
      sums.by_bias[row] += static_cast<double>(by_bias.total(no_tail));
    });
  }
}

template <class T>
void sigmoid_sums(const PairwiseParams<T>& params, const Block& block, const SigmoidRowSums<T>& sums,
                  const T* row_weights, T* scores) {
  using Function = void (*)(const PairwiseParams<T>&, const Block&, const SigmoidRowSums<T>&, const T*, T*);
  const Function function = switch_bools(
      []<bool kEuclidean, bool kWeights>() -> Function { return sigmoid_sums_of<kEuclidean, kWeights, T>; },
      params.euclidean, row_weights != nullptr);
  function(params, block, sums, row_weights, scores);
  if (row_weights) pad_weights(block, scores);
}

template <bool kEuclidean, class T>
void sigmoid_weights_of(const PairwiseParams<T>& params, const Block& block, const SigmoidWeights<T>& weights,
                        T* scores) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const V scale = V::broadcast(&weights.scale), bias = V::broadcast(&weights.bias);
  PairSigns<T> signs;
  for (int64_t i = 0; i < block.rows(); ++i) {
    T* row_scores = scores + i * kMaxBlockColumns;
    const int64_t row = block.row_begin + i;
    const V row_weight = V::broadcast(weights.row_weight + row);
    signs.with_row(params, block, row, [&] {
      for (int64_t c = 0; c < width; c += V::kLanes) {
        const V score = V::load(row_scores + c), s = similarity_of<kEuclidean>(score), sign = V::load(signs.sign + c);
        const V x = sign * fma(s, scale, bias);
        sigmoid_weight<kEuclidean>(score, row_weight * (sign * sigmoid(x, decay(x)))).store(row_scores + c);
      }
    });
  }
  pad_weights(block, scores);
}

template <class T>
void sigmoid_weights(const PairwiseParams<T>& params, const Block& block, const SigmoidWeights<T>& weights, T* scores) {
  (params.euclidean ? sigmoid_weights_of<true, T> : sigmoid_weights_of<false, T>)(params, block, weights, scores);
}

HARDMINE_PROVIDE_KERNELS(SigmoidKernels, .sigmoid_sums = sigmoid_sums<T>, .sigmoid_weights = sigmoid_weights<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
