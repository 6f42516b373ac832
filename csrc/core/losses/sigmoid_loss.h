// The sigmoid loss: each pair of a query and a key is classified alone.
//
// Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, equation 1:
//   value_i = sum_j softplus(x_ij), x_ij = -z_ij (scale s_ij + bias), z = 1 for positives and -1 for other pairs.
// With w_ij = -z_ij sigmoid(x_ij):
//   d value_i / d s_ij = scale w_ij,  d value_i / d scale = sum_j w_ij s_ij,  d value_i / d bias = sum_j w_ij.
#pragma once

#include "core/elementary.h"
#include "core/options.h"
#include "core/selection.h"

namespace hardmine {

struct SigmoidRule {
  Similarity similarity = Similarity::kCosine;
  bool allow_tf32 = false;  // float32 factors of products may be rounded to TF32; only CUDA does
};

inline SigmoidRule sigmoid_rule(int64_t similarity, bool allow_tf32) {
  return {.similarity = flat_similarity_from_code(similarity), .allow_tf32 = allow_tf32};
}

// [queries] each.
template <class T>
struct SigmoidOut {
  T* value;
  T* by_scale;  // the derivatives of the value
  T* by_bias;
};

// The sums over pairs.
struct SigmoidSums {
  double value = 0, by_scale = 0, by_bias = 0;
};

// The scale and the bias of the logits.
template <class T>
struct Logit {
  T scale, bias;
};

}  // namespace hardmine
