#include "cuda/kernels/sigmoid_loss.h"

#include "cuda/ops/pair_tensors.h"
#include "sigmoid_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor> sigmoid_loss_cuda(Tensor query, Tensor labels, Tensor key, Tensor key_labels, Tensor logit,
                                             int64_t similarity, bool allow_tf32) {
  const SigmoidRule rule = sigmoid_rule(similarity, allow_tf32);
  const LabeledInputs inputs(query, labels, key, key_labels, std::nullopt, std::nullopt);
  const Tensor numbers = checked_logit(logit, inputs.embeddings);
  const SigmoidTensors t(inputs);
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& queries, const auto* keys) {
    sigmoid_loss<MmaPolicy>(rule, data<double>(numbers), queries, *keys, inputs.depth,
                            t.out<typename MmaPolicy::acc_t>(), context, context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return {t.value, t.slopes};
}

std::tuple<Tensor, Tensor> sigmoid_loss_backward_cuda(Tensor grad_value, Tensor query, Tensor labels, Tensor key,
                                                      Tensor key_labels, Tensor logit, int64_t similarity,
                                                      bool allow_tf32, bool need_query, bool need_key) {
  const SigmoidRule rule = sigmoid_rule(similarity, allow_tf32);
  const LabeledInputs inputs(query, labels, key, key_labels, std::nullopt, std::nullopt);
  const Tensor numbers = checked_logit(logit, inputs.embeddings);
  const Tensor grad = checked_vector("grad_value", grad_value, inputs.embeddings, inputs.type);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings, {.rows = need_query, .columns = need_key});
  OpContext context(inputs.embeddings);
  const auto compute = [&]<class MmaPolicy, class Scalar>(const auto& queries, const auto* keys) {
    sigmoid_loss_gradient<MmaPolicy>(rule, data<double>(numbers), queries, *keys, inputs.depth,
                                     data<typename MmaPolicy::acc_t>(grad), gradient_out<Scalar>(gradients), context,
                                     context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, compute);
  return gradients.as(query.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&sigmoid_loss_cuda>(m, "sigmoid_loss");
  implement<&sigmoid_loss_backward_cuda>(m, "sigmoid_loss_backward");
}

}  // namespace hardmine::cuda
