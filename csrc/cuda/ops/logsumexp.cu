#include "cuda/kernels/logsumexp.h"

#include "cuda/ops/pair_tensors.h"
#include "logsumexp_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> logsumexp_cuda(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, Tensor temperature, std::optional<Tensor> bound,
    int64_t similarity, int64_t pairs, bool of_columns, bool positives, int64_t logit, double margin, bool allow_tf32) {
  const LogSumExpRule rule = logsumexp_rule(similarity, pairs, of_columns, positives, logit, margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const Tensor t = checked_temperature(temperature, inputs.embeddings);
  const LogSumExpTensors tensors(rule, inputs, bound);
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    logsumexp<MmaPolicy>(rule, data<double>(t), anchors, refs, inputs.depth, tensors.out<typename MmaPolicy::acc_t>(),
                         context, context.stream(), tensors.bound_data<typename MmaPolicy::acc_t>());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return tensors.all();
}

std::tuple<Tensor, Tensor> logsumexp_backward_cuda(
    Tensor grad_log_sum, std::optional<Tensor> grad_column, std::optional<Tensor> grad_positive, Tensor embeddings,
    Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
    std::optional<Tensor> ref_ids, Tensor temperature, std::optional<Tensor> bound, Tensor state, Tensor column_state,
    Tensor positive_count, int64_t similarity, int64_t pairs, bool of_columns, int64_t logit, double margin,
    bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) {
  const LogSumExpRule rule = logsumexp_rule(similarity, pairs, of_columns, false, logit, margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const Tensor t = checked_temperature(temperature, inputs.embeddings);
  const LogSumExpSavedTensors given(rule, inputs, grad_log_sum, grad_column, grad_positive, state, column_state,
                                    positive_count, bound);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings,
                                  {.rows = need_embeddings, .columns = need_ref_embeddings});
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    logsumexp_gradient<MmaPolicy>(rule, data<double>(t), anchors, refs, inputs.depth,
                                  given.saved<typename MmaPolicy::acc_t>(), gradient_out<Scalar>(gradients), context,
                                  context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return gradients.as(embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&logsumexp_cuda>(m, "logsumexp");
  implement<&logsumexp_backward_cuda>(m, "logsumexp_backward");
}

}  // namespace hardmine::cuda
