// What a tile's score says of a pair.
#pragma once

#include <cmath>

#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// In the order of similarities; of squared differences the smallest are the most similar.
template <class Arithmetic>
__device__ __forceinline__ typename Arithmetic::acc_t order_of(typename Arithmetic::acc_t score) {
  return Arithmetic::kSquares ? -score : score;
}

// The similarity that users see.
template <class Arithmetic>
__device__ __forceinline__ typename Arithmetic::acc_t similarity_of(typename Arithmetic::acc_t score) {
  return Arithmetic::kSquares ? -std::sqrt(score) : score;
}

}  // namespace hardmine::cuda
