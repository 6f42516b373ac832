#include "core/similarity.h"
#include "cuda/kernels/pair_gradient.h"
#include "cuda/ops/pair_tensors.h"
#include "cuda/ops/torch_bridge.h"

namespace hardmine::cuda {

LabeledInputs::LabeledInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                             const std::optional<Tensor>& ref_y)
    : type(compute_type(x)) {
  check_labeled(x, y, ref_x, ref_y);
  embeddings = contiguous_array(x);
  labels = contiguous_array(y);
  count = x.size(0);
  depth = x.size(1);
  if (!ref_x) return;
  ref_embeddings = contiguous_array(*ref_x);
  ref_labels = contiguous_array(*ref_y);
}

GradientTensors::GradientTensors(const Tensor& x, const std::optional<Tensor>& refs, bool need_embeddings,
                                 bool need_ref_embeddings)
    : has_refs(refs.has_value()) {
  compute_type(x);
  check_matrix("embeddings", x, -1);
  embeddings = contiguous_array(x);
  ref_embeddings = embeddings;
  if (refs) {
    check_refs("ref_embeddings", *refs, "embeddings", x);
    ref_embeddings = contiguous_array(*refs);
  }
  const auto gradient = [&](bool need, const Tensor& rows) {
    return need ? new_array(rows, {rows.size(0), rows.size(1)}, x.scalar_type())
                : new_array(rows, {0}, x.scalar_type());
  };
  grad_x = gradient(need_embeddings, embeddings);
  grad_refs = gradient(need_ref_embeddings && has_refs, ref_embeddings);
}

SelectionTensors select_triplets_tensors(const SelectionRule& rule, const LossRule* loss, const LabeledInputs& inputs,
                                         const std::optional<Tensor>& random, OpContext& context) {
  const int64_t count = inputs.count;
  const bool random_positive = rule.positive == Positive::kRandom, random_negative = rule.negative == Negative::kRandom;
  const Tensor drawn = checked_random(random, random_positive + random_negative, count, inputs.labels);
  RandomNumbers numbers;
  if (random_positive) numbers.positive = data<double>(drawn);
  if (random_negative) numbers.negative = data<double>(drawn) + (random_positive ? count : 0);
  SelectionTensors out{new_array(inputs.labels, {count}, ScalarType::Long),
                       new_array(inputs.labels, {count}, ScalarType::Long),
                       new_array(inputs.embeddings, {count}, inputs.type),
                       new_array(inputs.embeddings, {count}, inputs.type), inputs.embeddings};
  if (loss)
    out.loss = loss->reduction == Reduction::kNone ? new_array(inputs.embeddings, {count}, inputs.type)
                                                   : new_array(inputs.embeddings, {}, inputs.type);
  with_mma_policy(inputs.embeddings.scalar_type(), rule.similarity == Similarity::kEuclidean, rule.allow_tf32,
                  [&](auto mma_policy, auto scalar) {
                    using MmaPolicy = typename decltype(mma_policy)::type;
                    using Scalar = typename decltype(scalar)::type;
                    using acc_t = typename MmaPolicy::acc_t;
                    LabeledRows<Scalar> refs{};
                    if (inputs.ref_embeddings) refs = inputs.refs<Scalar>();
                    LossOut<acc_t> loss_out;
                    if (loss) loss_out = {loss->term, loss->reduction, mutable_data<acc_t>(out.loss)};
                    select_triplets<MmaPolicy>(
                        rule, inputs.anchors<Scalar>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth, numbers,
                        {mutable_data<int64_t>(out.positive_index), mutable_data<int64_t>(out.negative_index),
                         mutable_data<acc_t>(out.positive_similarity), mutable_data<acc_t>(out.negative_similarity)},
                        loss_out, context, context.stream());
                  });
  return out;
}

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> select_triplets_cuda(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> random, int64_t similarity, int64_t positive, int64_t negative, int64_t semihard_fallback,
    int64_t tie, double duplicate_threshold, double semihard_margin, bool allow_tf32) {
  const SelectionRule rule = selection_rule(similarity, positive, negative, semihard_fallback, tie, duplicate_threshold,
                                            semihard_margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels);
  OpContext context(inputs.embeddings);
  const SelectionTensors s = select_triplets_tensors(rule, nullptr, inputs, random, context);
  return {s.positive_similarity, s.negative_similarity, s.positive_index, s.negative_index};
}

std::tuple<Tensor, Tensor> select_triplets_backward_cuda(Tensor grad_positive, Tensor grad_negative, Tensor embeddings,
                                                         std::optional<Tensor> ref_embeddings, Tensor positive_index,
                                                         Tensor negative_index, int64_t similarity,
                                                         bool need_embeddings, bool need_ref_embeddings) {
  const PairMeasure measure = measure_of(similarity_from_code(similarity));
  const GradientTensors tensors(embeddings, ref_embeddings, need_embeddings, need_ref_embeddings);
  const SelectedTensors selected(positive_index, negative_index, grad_positive, grad_negative, tensors.embeddings);
  OpContext context(tensors.embeddings);
  with_gradient(tensors, [&](auto number, const auto& rows, const auto& out) {
    using acc_t = typename decltype(number)::type;
    // No loss, and the gradients of the similarities do not depend on the similarities.
    LossGradient<acc_t> loss{};
    loss.pairs = selected.pairs<acc_t>();
    loss.pairs.positive_similarity = loss.pairs.negative_similarity = nullptr;
    loss.grad_positive = data<acc_t>(selected.positive);
    loss.grad_negative = data<acc_t>(selected.negative);
    triplet_loss_gradient(measure, rows, loss, false, out, context, context.stream());
  });
  return {tensors.grad_x, tensors.grad_refs};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&select_triplets_cuda>(m, "select_triplets");
  implement<&select_triplets_backward_cuda>(m, "select_triplets_backward");
}

}  // namespace hardmine::cuda
