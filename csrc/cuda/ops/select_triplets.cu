#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> select_triplets_cuda(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, std::optional<Tensor> random, int64_t similarity,
    int64_t positive, int64_t negative, int64_t semihard_fallback, int64_t tie, double duplicate_threshold,
    double semihard_margin, bool allow_tf32) {
  const SelectionRule rule = selection_rule(similarity, positive, negative, semihard_fallback, tie, duplicate_threshold,
                                            semihard_margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  OpContext context(inputs.embeddings);
  const SelectionTensors s = select_triplets_tensors(rule, inputs, random, context);
  return {s.positive, s.negative, s.positive_index, s.negative_index};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> select_triplets_block_cuda(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, std::optional<Tensor> positive_key, int64_t similarity,
    int64_t positive, int64_t negative, int64_t tie, double duplicate_threshold, double semihard_margin,
    bool allow_tf32) {
  const SelectionRule rule = block_selection_rule(similarity, positive, negative, tie, duplicate_threshold,
                                                  semihard_margin, allow_tf32, positive_key.has_value());
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  OpContext context(inputs.embeddings);
  const SelectionBlock block(positive_key, inputs);
  const SelectionTensors s = select_triplets_tensors(rule, inputs, std::nullopt, context, nullptr, nullptr, block);
  return {s.positive, s.negative, s.positive_index, s.negative_index, *block.positive_key, *block.negative_key};
}

// The gradients of the embeddings from those of the similarities, which `selected` holds.
std::tuple<Tensor, Tensor> similarity_gradients(int64_t similarity, const BackwardInputs& inputs,
                                                const SelectionTensors& selected, ScalarType type) {
  const PairMeasure measure = measure_of(similarity_from_code(similarity));
  OpContext context(inputs.embeddings);
  with_gradient(inputs, [&]<class acc_t>(const auto& rows, const auto& out) {
    // No loss, and the gradients of the similarities do not depend on the similarities.
    LossGradient<acc_t> loss{};
    loss.pairs = selected.pairs<acc_t>();
    loss.pairs.positive_similarity = loss.pairs.negative_similarity = nullptr;
    loss.grad_positive = data<acc_t>(selected.positive);
    loss.grad_negative = data<acc_t>(selected.negative);
    loss.left = data<int64_t>(selected.anchor_index);
    triplet_loss_gradient(measure, rows, loss, NonfiniteRows::kKeepGradients, out, context, context.stream());
  });
  return inputs.gradients.as(type);
}

std::tuple<Tensor, Tensor> select_triplets_backward_cuda(Tensor grad_positive, Tensor grad_negative, Tensor embeddings,
                                                         std::optional<Tensor> ref_embeddings, Tensor positive_index,
                                                         Tensor negative_index, int64_t similarity,
                                                         bool need_embeddings, bool need_ref_embeddings) {
  const BackwardInputs inputs(embeddings, ref_embeddings, {.rows = need_embeddings, .columns = need_ref_embeddings});
  const SelectionTensors selected(positive_index, negative_index, "grad_positive", grad_positive, "grad_negative",
                                  grad_negative, inputs);
  return similarity_gradients(similarity, inputs, selected, embeddings.scalar_type());
}

std::tuple<Tensor, Tensor> select_all_positives_backward_cuda(Tensor grad_positive, Tensor grad_negative,
                                                              Tensor embeddings, std::optional<Tensor> ref_embeddings,
                                                              Tensor anchor_index, Tensor positive_index,
                                                              Tensor negative_index, int64_t similarity,
                                                              bool need_embeddings, bool need_ref_embeddings) {
  const BackwardInputs inputs(embeddings, ref_embeddings, {.rows = need_embeddings, .columns = need_ref_embeddings});
  const SelectionTensors selected(anchor_index, positive_index, negative_index, "grad_positive", grad_positive,
                                  "grad_negative", grad_negative, inputs);
  return similarity_gradients(similarity, inputs, selected, embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&select_triplets_cuda>(m, "select_triplets");
  implement<&select_triplets_block_cuda>(m, "select_triplets_block");
  implement<&select_triplets_backward_cuda>(m, "select_triplets_backward");
  implement<&select_all_positives_backward_cuda>(m, "select_all_positives_backward");
}

}  // namespace hardmine::cuda
