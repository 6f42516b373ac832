// Selections among labeled inputs, as tensors.
#pragma once

#include "cpu/engine/select_all_positives.h"
#include "cpu/engine/select_triplets.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

// The outputs of a selection, and whether all inputs are finite.
struct CheckedSelection : SelectionTensors {
  bool finite;
};
// `random`: see csrc/library.cpp.
CheckedSelection select_triplets_tensors(const SelectionRule& rule, const LabeledInputs& inputs,
                                         const std::optional<Tensor>& random, const SelectionBlock& block = {});

// In the list form.
CheckedSelection select_all_positives_tensors(const SelectionRule& rule, const LabeledInputs& inputs);

// From the checked, merged words of all parts; `finite` is true.
CheckedSelection merged_selection_tensors(const SelectionRule& rule, const Tensor& words);

}  // namespace hardmine::cpu
