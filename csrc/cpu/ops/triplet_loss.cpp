#include "cpu/ops/pair_tensors.h"
#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

template <class T>
SelectedPairs<T> selected_pairs(const Tensor& positive_index, const Tensor& negative_index,
                                const Tensor& positive_similarity, const Tensor& negative_similarity) {
  return {.positive_index = data<int64_t>(positive_index),
          .negative_index = data<int64_t>(negative_index),
          .positive_similarity = data<T>(positive_similarity),
          .negative_similarity = data<T>(negative_similarity),
          .count = positive_index.size(0)};
}

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
  const SelectionInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const SelectionTensors s = select_triplets_tensors(selection, inputs, random);
  const Tensor loss = rule.reduction == Reduction::kNone
                          ? new_array(inputs.embeddings, {embeddings.size(0)}, inputs.type)
                          : new_array(inputs.embeddings, {}, inputs.type);
  dispatch(inputs.type, [&]<class T>() {
    if (s.finite) {
      reduce_loss<T>(
          rule.term, rule.reduction,
          selected_pairs<T>(s.positive_index, s.negative_index, s.positive_similarity, s.negative_similarity),
          mutable_data<T>(loss));
    } else {  // divergence is never hidden
      std::fill_n(mutable_data<T>(loss), loss.numel(), std::numeric_limits<T>::quiet_NaN());
    }
  });
  return {loss, s.positive_similarity, s.negative_similarity, s.positive_index, s.negative_index};
}

std::tuple<Tensor, Tensor> triplet_loss_backward_cpu(
    Tensor grad_loss, std::optional<Tensor> grad_positive, std::optional<Tensor> grad_negative, Tensor embeddings,
    std::optional<Tensor> ref_embeddings, Tensor positive_similarity, Tensor negative_similarity, Tensor positive_index,
    Tensor negative_index, int64_t similarity, int64_t term, int64_t hard_rule, bool separate_means, double temperature,
    double margin, double lam, double hard_cutoff, double min_similarity, int64_t reduction, bool need_embeddings,
    bool need_ref_embeddings) {
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  const ScalarType type = compute_type(embeddings);
  check_matrix("embeddings", embeddings, -1);
  const int64_t count = embeddings.size(0);
  for (const Tensor* index : {&positive_index, &negative_index})
    check_vector("positive_index, negative_index", *index, count, ScalarType::Long);
  for (const Tensor* s : {&positive_similarity, &negative_similarity})
    check_vector("positive_similarity, negative_similarity", *s, count, type);
  check_loss_gradient(grad_loss, embeddings, type, rule.reduction == Reduction::kNone ? count : 1);
  const Tensor p_index = contiguous_array(positive_index), n_index = contiguous_array(negative_index);
  const Tensor p_sim = contiguous_array(positive_similarity), n_sim = contiguous_array(negative_similarity);
  const Tensor grad = contiguous_array(grad_loss);
  const Tensor d_positive = new_array(p_sim, {count}, type), d_negative = new_array(p_sim, {count}, type);
  dispatch(type, [&]<class T>() {
    reduce_loss_backward<T>(rule.term, rule.reduction, selected_pairs<T>(p_index, n_index, p_sim, n_sim), data<T>(grad),
                            mutable_data<T>(d_positive), mutable_data<T>(d_negative));
    const auto add = [&](const std::optional<Tensor>& extra, const Tensor& target) {
      if (!extra) return;
      check_vector("grad_positive, grad_negative", *extra, count, type);
      const Tensor values = contiguous_array(*extra);
      for (int64_t i = 0; i < count; ++i) mutable_data<T>(target)[i] += data<T>(values)[i];
    };
    add(grad_positive, d_positive);
    add(grad_negative, d_negative);
  });
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)),
                               selected_pair_tensors(p_index, n_index, d_positive, d_negative, count, type), embeddings,
                               ref_embeddings, {.rows = need_embeddings, .columns = need_ref_embeddings},
                               NonfiniteRows::kMakeGradientsNan);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&triplet_loss_cpu>(m, "triplet_loss");
  implement<&triplet_loss_backward_cpu>(m, "triplet_loss_backward");
}

}  // namespace hardmine::cpu
