#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {

LabeledInputs::LabeledInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                             const std::optional<Tensor>& ref_y, const std::optional<Tensor>& x_ids,
                             const std::optional<Tensor>& ref_x_ids)
    : type(compute_type(x)) {
  check_labeled(x, y, ref_x, ref_y, x_ids, ref_x_ids);
  embeddings = contiguous_array(x);
  labels = contiguous_array(y);
  ids = contiguous_array(x_ids);
  ref_ids = contiguous_array(ref_x_ids);
  count = x.size(0);
  depth = x.size(1);
  if (!ref_x) return;
  ref_embeddings = contiguous_array(*ref_x);
  ref_labels = contiguous_array(*ref_y);
}

GradientTensors::GradientTensors(const Tensor& x, const std::optional<Tensor>& refs, const NeededGradients& needed)
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
  grad_x = gradient(needed.rows, embeddings);
  grad_refs = gradient(needed.columns && has_refs, ref_embeddings);
}

SelectionTensors select_triplets_tensors(const SelectionRule& rule, const LossRule* loss, const LabeledInputs& inputs,
                                         const std::optional<Tensor>& random, OpContext& context) {
  const int64_t count = inputs.count;
  const bool random_positive = rule.positive == Positive::kRandom, random_negative = rule.negative == Negative::kRandom;
  const Tensor drawn = checked_random(random, random_positive + random_negative, count, inputs.labels);
  RandomNumbers uniforms;
  if (random_positive) uniforms.positive = data<double>(drawn);
  if (random_negative) uniforms.negative = data<double>(drawn) + (random_positive ? count : 0);
  SelectionTensors out{new_array(inputs.labels, {count}, ScalarType::Long),
                       new_array(inputs.labels, {count}, ScalarType::Long),
                       new_array(inputs.embeddings, {count}, inputs.type),
                       new_array(inputs.embeddings, {count}, inputs.type), inputs.embeddings};
  if (loss)
    out.loss = loss->reduction == Reduction::kNone ? new_array(inputs.embeddings, {count}, inputs.type)
                                                   : new_array(inputs.embeddings, {}, inputs.type);
  const auto select = [&]<class MmaPolicy, class Scalar>(const auto& anchors, const auto* refs) {
    using acc_t = typename MmaPolicy::acc_t;
    LossOut<acc_t> loss_out;
    if (loss) loss_out = {.term = loss->term, .reduction = loss->reduction, .loss = mutable_data<acc_t>(out.loss)};
    const SelectionOut<acc_t> selection{
        .positive_index = mutable_data<int64_t>(out.positive_index),
        .negative_index = mutable_data<int64_t>(out.negative_index),
        .positive_similarity = mutable_data<acc_t>(out.positive_similarity),
        .negative_similarity = mutable_data<acc_t>(out.negative_similarity),
    };
    select_triplets<MmaPolicy>(rule, anchors, refs, inputs.depth, uniforms, selection, loss_out, context,
                               context.stream());
  };
  with_labeled_inputs(inputs, rule.similarity, rule.allow_tf32, select);
  return out;
}

}  // namespace hardmine::cuda
