// The gradients of embeddings from those of listed pairs, as tensors.
#pragma once

#include "core/similarity.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

// Returns the gradients of the embeddings and refs in `type`.
std::tuple<Tensor, Tensor> pair_gradient_tensors(const PairMeasure& measure, const PairTensors& pairs,
                                                 const BackwardInputs& inputs, NonfiniteRows nonfinite,
                                                 ScalarType type);

// The pairs of a selection, from its indices and the gradients of its similarities.
PairTensors selected_pair_tensors(const SelectionTensors& selected);

}  // namespace hardmine::cpu
