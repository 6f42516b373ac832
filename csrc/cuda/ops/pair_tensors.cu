#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {

SelectionTensors select_triplets_tensors(const SelectionRule& rule, const LabeledInputs& inputs,
                                         const std::optional<Tensor>& random, OpContext& context,
                                         const LossRule* loss_rule, const Tensor* loss, const SelectionBlock& block) {
  const RandomTensor uniforms(rule, random, inputs);
  const SelectionTensors out(inputs);
  const auto select = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    using acc_t = typename MmaPolicy::acc_t;
    LossOut<acc_t> loss_out;
    if (loss_rule)
      loss_out = {.term = loss_rule->term, .reduction = loss_rule->reduction, .loss = mutable_data<acc_t>(*loss)};
    select_triplets<MmaPolicy>(rule, anchors, refs, inputs.depth, uniforms.numbers, block.out<acc_t>(out), loss_out,
                               context, context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, select);
  return out;
}

}  // namespace hardmine::cuda
