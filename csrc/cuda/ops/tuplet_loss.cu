#include "cuda/kernels/tuplet_loss.h"

#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {
namespace {

using TupletOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

TupletOutputs tuplet_loss_cuda(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                               std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                               std::optional<Tensor> ref_ids, int64_t similarity, int64_t positive, double temperature,
                               double duplicate_threshold, int64_t reduction, bool allow_tf32) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const Tensor loss = rule.reduction == Reduction::kNone ? new_array(inputs.embeddings, {inputs.count}, inputs.type)
                                                         : new_array(inputs.embeddings, {}, inputs.type);
  const TupletTensors t(inputs.embeddings, inputs.labels, inputs.type);
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    using acc_t = typename MmaPolicy::acc_t;
    const TupletOut<acc_t> out{
        .loss = mutable_data<acc_t>(loss),
        .logsumexp = mutable_data<acc_t>(t.logsumexp),
        .shift = mutable_data<acc_t>(t.shift),
        .sum = mutable_data<acc_t>(t.sum),
        .slope = mutable_data<acc_t>(t.slope),
        .positive_similarity = mutable_data<acc_t>(t.positive_similarity),
        .positive_index = mutable_data<int64_t>(t.positive_index),
        .positive_count = mutable_data<int64_t>(t.positive_count),
    };
    tuplet_loss<MmaPolicy>(rule, anchors, refs, inputs.depth, out, context, context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return {loss, t.logsumexp, t.positive_similarity, t.shift, t.sum, t.slope, t.positive_index, t.positive_count};
}

std::tuple<Tensor, Tensor> tuplet_loss_backward_cuda(Tensor grad_loss, Tensor embeddings, Tensor labels,
                                                     std::optional<Tensor> ref_embeddings,
                                                     std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                     std::optional<Tensor> ref_ids, Tensor shift, Tensor sum,
                                                     Tensor slope, Tensor positive_index, Tensor positive_count,
                                                     int64_t similarity, int64_t positive, double temperature,
                                                     double duplicate_threshold, int64_t reduction, bool allow_tf32,
                                                     bool need_embeddings, bool need_ref_embeddings) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const TupletSavedTensors given(rule, inputs.embeddings, inputs.type, grad_loss, shift, sum, slope, positive_index,
                                 positive_count);
  const GradientTensors tensors(embeddings, ref_embeddings, {.rows = need_embeddings, .columns = need_ref_embeddings});
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    using acc_t = typename MmaPolicy::acc_t;
    const auto target = [](const Tensor& t) { return t.dim() == 2 ? mutable_data<Scalar>(t) : nullptr; };
    const TupletSaved<acc_t> saved{
        .grad_loss = data<acc_t>(given.gradient),
        .shift = data<acc_t>(given.shift),
        .sum = data<acc_t>(given.sum),
        .slope = data<acc_t>(given.slope),
        .positive_index = data<int64_t>(given.positive_index),
        .positive_count = data<int64_t>(given.positive_count),
    };
    tuplet_loss_gradient<MmaPolicy>(rule, anchors, refs, inputs.depth, saved,
                                    GradientOut<Scalar>{target(tensors.grad_x), target(tensors.grad_refs)}, context,
                                    context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return {tensors.grad_x, tensors.grad_refs};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&tuplet_loss_cuda>(m, "tuplet_loss");
  implement<&tuplet_loss_backward_cuda>(m, "tuplet_loss_backward");
}

}  // namespace hardmine::cuda
