// What a tile's number says of a pair.
#pragma once

#include <cmath>

#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// In the order of similarities; of squared differences the smallest are the most similar.
template <class Arithmetic>
__device__ __forceinline__ typename Arithmetic::Number order_of(typename Arithmetic::Number number) {
  return Arithmetic::kSquares ? -number : number;
}

// The similarity that users see.
template <class Arithmetic>
__device__ __forceinline__ typename Arithmetic::Number similarity_of(typename Arithmetic::Number number) {
  return Arithmetic::kSquares ? -std::sqrt(number) : number;
}

}  // namespace hardmine::cuda
