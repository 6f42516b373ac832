#include "cpu/ops/selection_tensors.h"

#include "cpu/engine/select_part.h"

namespace hardmine::cpu {

CheckedSelection select_triplets_tensors(const SelectionRule& rule, const LabeledInputs& inputs,
                                         const std::optional<Tensor>& random, const SelectionBlock& block) {
  const RandomTensor uniforms(rule, random, inputs);
  CheckedSelection out{SelectionTensors(inputs), true};
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    out.finite = select_triplets<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth,
                                    uniforms.numbers, TorchThreadPool(), block.out<T>(out));
  });
  return out;
}

CheckedSelection merged_selection_tensors(const SelectionRule& rule, const Tensor& words) {
  const CheckedSelection out{SelectionTensors(words), true};
  dispatch(type_of_words(words),
           [&]<class T>() { merged_selection<T>(rule, data<int64_t>(words), words.size(2), out.out<T>()); });
  return out;
}

}  // namespace hardmine::cpu
