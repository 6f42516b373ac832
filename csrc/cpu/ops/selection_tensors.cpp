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

CheckedSelection select_all_positives_tensors(const SelectionRule& rule, const LabeledInputs& inputs) {
  return dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    PositivePairs<T> pairs;
    const bool finite = select_all_positives<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr,
                                                inputs.depth, TorchThreadPool(), pairs);
    const SelectionTensors out(static_cast<int64_t>(pairs.anchor.size()), inputs);
    std::copy(pairs.anchor.begin(), pairs.anchor.end(), mutable_data<int64_t>(*out.anchor_index));
    std::copy(pairs.positive.begin(), pairs.positive.end(), mutable_data<int64_t>(out.positive_index));
    std::copy(pairs.negative.begin(), pairs.negative.end(), mutable_data<int64_t>(out.negative_index));
    std::copy(pairs.positive_similarity.begin(), pairs.positive_similarity.end(), mutable_data<T>(out.positive));
    std::copy(pairs.negative_similarity.begin(), pairs.negative_similarity.end(), mutable_data<T>(out.negative));
    return CheckedSelection{out, finite};
  });
}

CheckedSelection merged_selection_tensors(const SelectionRule& rule, const Tensor& words) {
  const CheckedSelection out{SelectionTensors(words), true};
  dispatch(type_of_words(words),
           [&]<class T>() { merged_selection<T>(rule, data<int64_t>(words), words.size(2), out.out<T>()); });
  return out;
}

}  // namespace hardmine::cpu
