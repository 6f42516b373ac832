#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {

SelectionInputs::SelectionInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                                 const std::optional<Tensor>& ref_y, const std::optional<Tensor>& x_ids,
                                 const std::optional<Tensor>& ref_x_ids)
    : type(compute_type(x)) {
  check_labeled(x, y, ref_x, ref_y, x_ids, ref_x_ids);
  embeddings = as_array(x, type);
  labels = contiguous_array(y);
  ids = contiguous_array(x_ids);
  ref_ids = contiguous_array(ref_x_ids);
  if (!ref_x) return;
  ref_embeddings = as_array(*ref_x, type);
  ref_labels = contiguous_array(*ref_y);
}

SelectionTensors select_triplets_tensors(const SelectionRule& rule, const SelectionInputs& inputs,
                                         const std::optional<Tensor>& random) {
  const int64_t count = inputs.embeddings.size(0), depth = inputs.embeddings.size(1);
  const bool random_positive = rule.positive == Positive::kRandom, random_negative = rule.negative == Negative::kRandom;
  const Tensor contiguous_random = checked_random(random, random_positive + random_negative, count, inputs.labels);
  RandomNumbers uniforms;
  if (random_positive) uniforms.positive = data<double>(contiguous_random);
  if (random_negative) uniforms.negative = data<double>(contiguous_random) + (random_positive ? count : 0);
  SelectionTensors out{
      new_array(inputs.labels, {count}, ScalarType::Long), new_array(inputs.labels, {count}, ScalarType::Long),
      new_array(inputs.embeddings, {count}, inputs.type), new_array(inputs.embeddings, {count}, inputs.type), true};
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> anchors = inputs.anchors<T>();
    const LabeledMatrix<T> refs = inputs.ref_embeddings ? inputs.refs<T>() : LabeledMatrix<T>{};
    out.finite =
        select_triplets<T>(rule, anchors, inputs.ref_embeddings ? &refs : nullptr, depth, uniforms, TorchThreadPool(),
                           {.positive_index = mutable_data<int64_t>(out.positive_index),
                            .negative_index = mutable_data<int64_t>(out.negative_index),
                            .positive_similarity = mutable_data<T>(out.positive_similarity),
                            .negative_similarity = mutable_data<T>(out.negative_similarity)});
  });
  return out;
}

}  // namespace hardmine::cpu
