#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> triplet_loss_cuda(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, std::optional<Tensor> random, int64_t similarity,
    int64_t positive, int64_t negative, int64_t semihard_fallback, int64_t tie, double duplicate_threshold,
    double semihard_margin, bool allow_tf32, int64_t term, int64_t hard_rule, bool separate_means, double temperature,
    double margin, double lam, double hard_cutoff, double min_similarity, int64_t reduction) {
  const SelectionRule selection = selection_rule(similarity, positive, negative, semihard_fallback, tie,
                                                 duplicate_threshold, semihard_margin, allow_tf32);
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  OpContext context(inputs.embeddings);
  const Tensor loss = inputs.new_loss(rule.reduction);
  const SelectionTensors s = select_triplets_tensors(selection, inputs, random, context, &rule, &loss);
  return {loss, s.positive, s.negative, s.positive_index, s.negative_index};
}

std::tuple<Tensor, Tensor> loss_gradients(const LossRule& rule, int64_t similarity, const BackwardInputs& inputs,
                                          const SelectionTensors& selected, const SelectionGradients& arriving,
                                          ScalarType type) {
  const PairMeasure measure = measure_of(similarity_from_code(similarity));
  OpContext context(inputs.embeddings);
  with_gradient(inputs, [&]<class acc_t>(const auto& rows, const auto& out) {
    const LossGradient<acc_t> loss{
        .term = rule.term,
        .reduction = rule.reduction,
        .pairs = selected.pairs<acc_t>(),
        .grad_loss = data<acc_t>(arriving.loss),
        .grad_positive = data<acc_t>(arriving.positive),
        .grad_negative = data<acc_t>(arriving.negative),
        .left = data<int64_t>(selected.anchor_index),
    };
    triplet_loss_gradient(measure, rows, loss, NonfiniteRows::kMakeGradientsNan, out, context, context.stream());
  });
  return inputs.gradients.as(type);
}

std::tuple<Tensor, Tensor> triplet_loss_backward_cuda(
    Tensor grad_loss, std::optional<Tensor> grad_positive, std::optional<Tensor> grad_negative, Tensor embeddings,
    std::optional<Tensor> ref_embeddings, Tensor positive_similarity, Tensor negative_similarity, Tensor positive_index,
    Tensor negative_index, int64_t similarity, int64_t term, int64_t hard_rule, bool separate_means, double temperature,
    double margin, double lam, double hard_cutoff, double min_similarity, int64_t reduction, bool need_embeddings,
    bool need_ref_embeddings) {
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  const BackwardInputs inputs(embeddings, ref_embeddings, {.rows = need_embeddings, .columns = need_ref_embeddings});
  const SelectionTensors selected(positive_index, negative_index, "positive_similarity", positive_similarity,
                                  "negative_similarity", negative_similarity, inputs);
  const SelectionGradients arriving(rule, grad_loss, grad_positive, grad_negative, selected, inputs);
  return loss_gradients(rule, similarity, inputs, selected, arriving, embeddings.scalar_type());
}

std::tuple<Tensor, Tensor> all_positives_triplet_loss_backward_cuda(
    Tensor grad_loss, std::optional<Tensor> grad_positive, std::optional<Tensor> grad_negative, Tensor embeddings,
    std::optional<Tensor> ref_embeddings, Tensor positive_similarity, Tensor negative_similarity, Tensor anchor_index,
    Tensor positive_index, Tensor negative_index, int64_t similarity, int64_t term, int64_t hard_rule,
    bool separate_means, double temperature, double margin, double lam, double hard_cutoff, double min_similarity,
    int64_t reduction, bool need_embeddings, bool need_ref_embeddings) {
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  const BackwardInputs inputs(embeddings, ref_embeddings, {.rows = need_embeddings, .columns = need_ref_embeddings});
  const SelectionTensors selected(anchor_index, positive_index, negative_index, "positive_similarity",
                                  positive_similarity, "negative_similarity", negative_similarity, inputs);
  const SelectionGradients arriving(rule, grad_loss, grad_positive, grad_negative, selected, inputs);
  return loss_gradients(rule, similarity, inputs, selected, arriving, embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&triplet_loss_cuda>(m, "triplet_loss");
  implement<&triplet_loss_backward_cuda>(m, "triplet_loss_backward");
  implement<&all_positives_triplet_loss_backward_cuda>(m, "all_positives_triplet_loss_backward");
}

}  // namespace hardmine::cuda
