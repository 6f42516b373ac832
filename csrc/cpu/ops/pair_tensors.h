// Lists of pairs as tensors, and the gradients of embeddings from them.
#pragma once

#include "core/similarity.h"
#include "core/views.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

// The members of a PairList as tensors.
struct PairTensors {
  std::optional<Tensor> left;  // [entries] int64; none: entry e is row e of the embeddings
  Tensor right;                // [entries, partners] int64, -1: no pair
  Tensor gradient;             // [entries, partners], compute type
};

// The gradients of the embeddings and refs, in their dtypes; empty if not needed.
std::tuple<Tensor, Tensor> pair_gradient_tensors(const PairMeasure& measure, const PairTensors& pairs,
                                                 const Tensor& embeddings, const std::optional<Tensor>& ref_embeddings,
                                                 const NeededGradients& needed, NonfiniteRows nonfinite);

// The pairs of a selection, from indices and gradients of positives and negatives, all [B].
PairTensors selected_pair_tensors(const Tensor& positive_index, const Tensor& negative_index,
                                  const Tensor& grad_positive, const Tensor& grad_negative, int64_t count,
                                  ScalarType type);

}  // namespace hardmine::cpu
