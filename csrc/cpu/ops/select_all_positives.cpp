#include "cpu/ops/pair_tensors.h"
#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> select_all_positives_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, int64_t similarity, int64_t negative,
    int64_t semihard_fallback, int64_t tie, double duplicate_threshold, double semihard_margin, bool allow_tf32) {
  const SelectionRule rule = all_positives_rule(similarity, negative, semihard_fallback, tie, duplicate_threshold,
                                                semihard_margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const CheckedSelection s = select_all_positives_tensors(rule, inputs);
  return {s.positive, s.negative, s.anchor_index.value(), s.positive_index, s.negative_index};
}

std::tuple<Tensor, Tensor> select_all_positives_backward_cpu(Tensor grad_positive, Tensor grad_negative,
                                                             Tensor embeddings, std::optional<Tensor> ref_embeddings,
                                                             Tensor anchor_index, Tensor positive_index,
                                                             Tensor negative_index, int64_t similarity,
                                                             bool need_embeddings, bool need_ref_embeddings) {
  const BackwardInputs inputs(embeddings, ref_embeddings, {.rows = need_embeddings, .columns = need_ref_embeddings});
  const SelectionTensors selected(anchor_index, positive_index, negative_index, "grad_positive", grad_positive,
                                  "grad_negative", grad_negative, inputs);
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)), selected_pair_tensors(selected), inputs,
                               NonfiniteRows::kKeepGradients, embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&select_all_positives_cpu>(m, "select_all_positives");
  implement<&select_all_positives_backward_cpu>(m, "select_all_positives_backward");
}

}  // namespace hardmine::cpu
