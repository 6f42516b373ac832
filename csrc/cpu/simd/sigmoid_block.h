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

template <bool kEuclidean, class T>
void sigmoid_sums_of(const PairwiseParams<T>& params, const Block& block, const T* scores,
                     const SigmoidRowSums<T>& sums) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const V scale = V::broadcast(&sums.scale), bias = V::broadcast(&sums.bias);
  const T no_tail[kPartials] = {};
  PairSigns<T> signs;
  for (int64_t i = 0; i < block.rows(); ++i) {
    const T* row_scores = scores + i * kMaxBlockColumns;
    const int64_t row = block.row_begin + i;
    signs.with_row(params, block, row, [&] {
      Partials<T> value, by_scale, by_bias;
      for (int64_t c = 0; c < width; c += kPartials) {
#pragma GCC unroll 16
        for (int64_t v = 0; v < Partials<T>::kVecs; ++v) {
          const int64_t k = c + v * V::kLanes;
          const V s = similarity_of<kEuclidean>(V::load(row_scores + k)), sign = V::load(signs.sign + k);
          const V x = sign * fma(s, scale, bias), e = decay(x);
          const auto known = s >= s;  // no padding
          const V slope = V::select(known, sign * sigmoid(x, e), V::zero());
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
void sigmoid_sums(const PairwiseParams<T>& params, const Block& block, const T* scores, const SigmoidRowSums<T>& sums) {
  (params.euclidean ? sigmoid_sums_of<true, T> : sigmoid_sums_of<false, T>)(params, block, scores, sums);
}

template <bool kEuclidean, class T>
void sigmoid_weights_of(const PairwiseParams<T>& params, const Block& block, const SigmoidWeights<T>& weights,
                        T* scores) {
  using V = Vec<T>;
  const int64_t width = buffer_width(block);
  const V scale = V::broadcast(&weights.scale), bias = V::broadcast(&weights.bias);
  const V min_square = constant<T>(std::numeric_limits<T>::min());
  PairSigns<T> signs;
  for (int64_t i = 0; i < block.rows(); ++i) {
    T* row_scores = scores + i * kMaxBlockColumns;
    const int64_t row = block.row_begin + i;
    const V row_weight = V::broadcast(weights.row_weight + row);
    signs.with_row(params, block, row, [&] {
      for (int64_t c = 0; c < width; c += V::kLanes) {
        const V score = V::load(row_scores + c), s = similarity_of<kEuclidean>(score), sign = V::load(signs.sign + c);
        const V x = sign * fma(s, scale, bias);
        V weight = row_weight * (sign * sigmoid(x, decay(x)));
        if constexpr (kEuclidean) {
          // s = -d, so ds / dx = (y - x) / d. At d = 0 the subgradient is 0, as for PyTorch's norm.
          weight = V::select(score >= min_square, weight / sqrt(score), V::zero());
        }
        V::select(score >= score, weight, V::zero()).store(row_scores + c);
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
