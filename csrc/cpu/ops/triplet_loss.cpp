#include "cpu/ops/pair_tensors.h"
#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> triplet_loss_cpu(
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
  const CheckedSelection s = select_triplets_tensors(selection, inputs, random);
  const Tensor loss = inputs.new_loss(rule.reduction);
  dispatch(inputs.type, [&]<class T>() {
    if (s.finite) {
      reduce_loss<T>(rule.term, rule.reduction, s.pairs<T>(), mutable_data<T>(loss));
    } else {  // divergence is never hidden
      std::fill_n(mutable_data<T>(loss), loss.numel(), std::numeric_limits<T>::quiet_NaN());
    }
  });
  return {loss, s.positive, s.negative, s.positive_index, s.negative_index};
}

std::tuple<Tensor, Tensor> triplet_loss_backward_cpu(
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
  const SelectionGradients arriving(rule, grad_loss, grad_positive, grad_negative, inputs);
  // The same pairs, with the gradients of their similarities.
  SelectionTensors gradients = selected;
  gradients.positive = inputs.new_vector();
  gradients.negative = inputs.new_vector();
  dispatch(inputs.type, [&]<class T>() {
    reduce_loss_backward<T>(rule.term, rule.reduction, selected.pairs<T>(), data<T>(arriving.loss),
                            mutable_data<T>(gradients.positive), mutable_data<T>(gradients.negative));
    const auto add = [&](const std::optional<Tensor>& extra, const Tensor& target) {
      if (!extra) return;
      for (int64_t i = 0; i < inputs.count(); ++i) mutable_data<T>(target)[i] += data<T>(*extra)[i];
    };
    add(arriving.positive, gradients.positive);
    add(arriving.negative, gradients.negative);
  });
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)), selected_pair_tensors(gradients), inputs,
                               NonfiniteRows::kMakeGradientsNan, embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&triplet_loss_cpu>(m, "triplet_loss");
  implement<&triplet_loss_backward_cpu>(m, "triplet_loss_backward");
}

}  // namespace hardmine::cpu
