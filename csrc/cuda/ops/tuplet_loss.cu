#include "cuda/kernels/tuplet_loss.h"

#include "cuda/ops/pair_tensors.h"
#include "tuplet_tensors.h"

namespace hardmine::cuda {
namespace {

using TupletOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

TupletOutputs tuplet_loss_cuda(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                               std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                               std::optional<Tensor> ref_ids, int64_t similarity, int64_t positive, double temperature,
                               double duplicate_threshold, int64_t reduction, bool allow_tf32) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const TupletTensors t(inputs);
  const Tensor loss = inputs.new_loss(rule.reduction);
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    tuplet_loss<MmaPolicy>(rule, anchors, refs, inputs.depth, t.out<typename MmaPolicy::acc_t>(loss), context,
                           context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return {loss, t.logsumexp, t.positive_similarity, t.shift, t.sum, t.slope, t.positive_index, t.positive_count};
}

// One pass among a block of the refs. `term`: [count], the mean term of the block's positives.
TupletTensors tuplet_block(const TupletRule& rule, const LabeledInputs& inputs, const TupletBlockTensors& block,
                           const Tensor& term) {
  const TupletTensors t(inputs);
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    tuplet_loss<MmaPolicy>(rule, anchors, refs, inputs.depth, block.out<typename MmaPolicy::acc_t>(t, term), context,
                           context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return t;
}

std::tuple<Tensor, Tensor> tuplet_logsumexp_cuda(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                                                 std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                 std::optional<Tensor> ref_ids, int64_t similarity, double temperature,
                                                 bool allow_tf32) {
  const TupletRule rule = tuplet_block_rule(similarity, temperature, HUGE_VAL, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const TupletTensors t = tuplet_block(rule, inputs, {}, inputs.new_vector(inputs.type));
  return {t.shift, t.sum};
}

std::tuple<Tensor, Tensor, Tensor> tuplet_positives_cuda(Tensor embeddings, Tensor labels,
                                                         std::optional<Tensor> ref_embeddings,
                                                         std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                         std::optional<Tensor> ref_ids, Tensor shift, Tensor sum,
                                                         int64_t similarity, double temperature,
                                                         double duplicate_threshold, bool allow_tf32) {
  const TupletRule rule = tuplet_block_rule(similarity, temperature, duplicate_threshold, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const Tensor term = inputs.new_vector(inputs.type);
  const TupletTensors t = tuplet_block(rule, inputs, {shift, sum, inputs}, term);
  return {term, t.slope, t.positive_count};
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
  const TupletSavedTensors given(rule, inputs, grad_loss, shift, sum, slope, positive_index, positive_count);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings,
                                  {.rows = need_embeddings, .columns = need_ref_embeddings});
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    tuplet_loss_gradient<MmaPolicy>(rule, anchors, refs, inputs.depth, given.saved<typename MmaPolicy::acc_t>(),
                                    gradient_out<Scalar>(gradients), context, context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return gradients.as(embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&tuplet_loss_cuda>(m, "tuplet_loss");
  implement<&tuplet_logsumexp_cuda>(m, "tuplet_logsumexp");
  implement<&tuplet_positives_cuda>(m, "tuplet_positives");
  implement<&tuplet_loss_backward_cuda>(m, "tuplet_loss_backward");
}

}  // namespace hardmine::cuda
