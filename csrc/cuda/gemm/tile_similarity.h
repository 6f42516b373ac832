// From a tile's score to a key and a similarity.
#pragma once

#include <cmath>

#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// The order-preserving key: of squared differences, the smallest are the most similar.
template <class MmaPolicy>
__device__ __forceinline__ typename MmaPolicy::acc_t key_from_score(typename MmaPolicy::acc_t score) {
  return MmaPolicy::kSquaredDifferences ? -score : score;
}

// The similarity that users see.
template <class MmaPolicy>
__device__ __forceinline__ typename MmaPolicy::acc_t similarity_from_score(typename MmaPolicy::acc_t score) {
  return MmaPolicy::kSquaredDifferences ? -std::sqrt(score) : score;
}

}  // namespace hardmine::cuda
