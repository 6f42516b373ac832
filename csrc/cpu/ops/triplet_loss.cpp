#include "cpu/engine/pair_gradient.h"
#include "cpu/ops/pair_tensors.h"
#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

using LossTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

void write_loss(const LossRule& rule, const CheckedSelection& s, const Tensor& loss) {
  dispatch(loss.scalar_type(), [&]<class T>() {
    if (s.finite) {
      reduce_loss<T>(rule.term, rule.reduction, s.pairs<T>(), mutable_data<T>(loss));
    } else {  // divergence is never hidden
      std::fill_n(mutable_data<T>(loss), loss.numel(), std::numeric_limits<T>::quiet_NaN());
    }
  });
}

LossTensors loss_tensors(const LossRule& rule, const CheckedSelection& s, const Tensor& loss) {
  write_loss(rule, s, loss);
  return {loss, s.positive, s.negative, s.positive_index, s.negative_index};
}

LossTensors triplet_loss_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                             std::optional<Tensor> ref_labels, std::optional<Tensor> ids, std::optional<Tensor> ref_ids,
                             std::optional<Tensor> random, int64_t similarity, int64_t positive, int64_t negative,
                             int64_t semihard_fallback, int64_t tie, double duplicate_threshold, double semihard_margin,
                             bool allow_tf32, int64_t term, int64_t hard_rule, bool separate_means, double temperature,
                             double margin, double lam, double hard_cutoff, double min_similarity, int64_t reduction) {
  const SelectionRule selection = selection_rule(similarity, positive, negative, semihard_fallback, tie,
                                                 duplicate_threshold, semihard_margin, allow_tf32);
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  return loss_tensors(rule, select_triplets_tensors(selection, inputs, random), inputs.new_loss(rule.reduction));
}

LossTensors triplet_loss_of_parts_cpu(Tensor embeddings, Tensor words, int64_t similarity, int64_t positive,
                                      int64_t negative, int64_t semihard_fallback, int64_t term, int64_t hard_rule,
                                      bool separate_means, double temperature, double margin, double lam,
                                      double hard_cutoff, double min_similarity, int64_t reduction) {
  const SelectionRule merged = merged_rule(similarity, positive, negative, semihard_fallback);
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  check_matrix("embeddings", embeddings, -1);
  const Tensor x = embedding_array(embeddings);
  CheckedSelection s = merged_selection_tensors(merged, checked_words("words", words, part_selections(merged), x));
  dispatch(x.scalar_type(),
           [&]<class T>() { s.finite = all_finite(data<T>(x), x.size(0), x.size(1), TorchThreadPool()); });
  return loss_tensors(rule, s, new_loss(x, rule.reduction));
}

// As triplet_loss_backward in csrc/library.cpp.
std::tuple<Tensor, Tensor> loss_gradients(const LossRule& rule, int64_t similarity, const BackwardInputs& inputs,
                                          const SelectionTensors& selected, const SelectionGradients& arriving,
                                          ScalarType type) {
  // The same pairs, with the gradients of their similarities.
  SelectionTensors gradients = selected;
  gradients.positive = new_array(selected.positive, {selected.count()}, inputs.type);
  gradients.negative = new_array(selected.positive, {selected.count()}, inputs.type);
  dispatch(inputs.type, [&]<class T>() {
    reduce_loss_backward<T>(rule.term, rule.reduction, selected.pairs<T>(), data<T>(arriving.loss),
                            mutable_data<T>(gradients.positive), mutable_data<T>(gradients.negative));
    const auto add = [&](const std::optional<Tensor>& extra, const Tensor& target) {
      if (!extra) return;
      for (int64_t i = 0; i < selected.count(); ++i) mutable_data<T>(target)[i] += data<T>(*extra)[i];
    };
    add(arriving.positive, gradients.positive);
    add(arriving.negative, gradients.negative);
  });
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)), selected_pair_tensors(gradients), inputs,
                               NonfiniteRows::kMakeGradientsNan, type);
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
  const SelectionGradients arriving(rule, grad_loss, grad_positive, grad_negative, selected, inputs);
  return loss_gradients(rule, similarity, inputs, selected, arriving, embeddings.scalar_type());
}

Tensor triplet_loss_backward_rows_cpu(Tensor grad_loss, Tensor embeddings, Tensor positive_similarity,
                                      Tensor negative_similarity, Tensor positive_index, Tensor negative_index,
                                      int64_t similarity, int64_t term, int64_t hard_rule, bool separate_means,
                                      double temperature, double margin, double lam, double hard_cutoff,
                                      double min_similarity, int64_t reduction, int64_t first_row, int64_t num_rows) {
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  const BackwardInputs inputs(embeddings, first_row, num_rows);
  const SelectionTensors selected(positive_index, negative_index, "positive_similarity", positive_similarity,
                                  "negative_similarity", negative_similarity, inputs);
  const SelectionGradients arriving(rule, grad_loss, std::nullopt, std::nullopt, selected, inputs);
  return std::get<0>(loss_gradients(rule, similarity, inputs, selected, arriving, embeddings.scalar_type()));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> all_positives_triplet_loss_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, int64_t similarity, int64_t negative,
    int64_t semihard_fallback, int64_t tie, double duplicate_threshold, double semihard_margin, bool allow_tf32,
    int64_t term, int64_t hard_rule, bool separate_means, double temperature, double margin, double lam,
    double hard_cutoff, double min_similarity, int64_t reduction) {
  const SelectionRule selection = all_positives_rule(similarity, negative, semihard_fallback, tie, duplicate_threshold,
                                                     semihard_margin, allow_tf32);
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const CheckedSelection s = select_all_positives_tensors(selection, inputs);
  const Tensor loss = new_loss(s.positive, rule.reduction);
  write_loss(rule, s, loss);
  return {loss, s.positive, s.negative, s.anchor_index.value(), s.positive_index, s.negative_index};
}

std::tuple<Tensor, Tensor> all_positives_triplet_loss_backward_cpu(
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

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&all_positives_triplet_loss_cpu>(m, "all_positives_triplet_loss");
  implement<&all_positives_triplet_loss_backward_cpu>(m, "all_positives_triplet_loss_backward");
  implement<&triplet_loss_cpu>(m, "triplet_loss");
  implement<&triplet_loss_backward_cpu>(m, "triplet_loss_backward");
  implement<&triplet_loss_of_parts_cpu>(m, "triplet_loss_of_parts");
  implement<&triplet_loss_backward_rows_cpu>(m, "triplet_loss_backward_rows");
}

}  // namespace hardmine::cpu
