#include "cpu/engine/pair_gradient.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

SelectionInputs::SelectionInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                                 const std::optional<Tensor>& ref_y)
    : type(compute_type(x)) {
  check_labeled(x, y, ref_x, ref_y);
  embeddings = as_array(x, type);
  labels = contiguous_array(y);
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

std::tuple<Tensor, Tensor> pair_gradient_tensors(const PairMeasure& measure, const PairTensors& pairs,
                                                 const Tensor& embeddings, const std::optional<Tensor>& ref_embeddings,
                                                 bool need_embeddings, bool need_ref_embeddings,
                                                 bool nan_if_not_finite) {
  check_matrix("embeddings", embeddings, -1);
  const int64_t count = embeddings.size(0), depth = embeddings.size(1);
  if (ref_embeddings) check_matrix("ref_embeddings", *ref_embeddings, depth);
  const int64_t ref_count = ref_embeddings ? ref_embeddings->size(0) : 0;
  const ScalarType type = compute_type(embeddings);
  const int64_t entries = pairs.left ? pairs.left->numel() : count;
  check_pairs("the indices of pairs", pairs.right, entries, ScalarType::Long);
  check_pairs("the gradients of pairs", pairs.gradient, entries, type);
  check(pairs.gradient.size(1) == pairs.right.size(1), "pairs must have as many gradients as indices");
  const Tensor right = checked_indices("the indices of pairs", pairs.right, -1, ref_embeddings ? ref_count : count);
  std::optional<Tensor> left;
  if (pairs.left) left = checked_indices("the anchors of pairs", *pairs.left, 0, count);
  need_ref_embeddings &= ref_embeddings.has_value();

  const Tensor x = as_array(embeddings, type);
  const Tensor refs = ref_embeddings ? as_array(*ref_embeddings, type) : x;
  const Tensor gradient = contiguous_array(pairs.gradient);
  const auto new_gradient = [&](bool need, int64_t rows) {
    return need ? new_array(x, {rows, depth}, type) : new_array(x, {0}, type);
  };
  const Tensor grad_x = new_gradient(need_embeddings, count), grad_refs = new_gradient(need_ref_embeddings, ref_count);
  dispatch(type, [&]<class T>() {
    const TorchThreadPool pool;
    const bool propagate_nan =
        nan_if_not_finite && !(all_finite(data<T>(x), count, depth, pool) &&
                               (!ref_embeddings || all_finite(data<T>(refs), ref_count, depth, pool)));
    if (propagate_nan) {
      for (const Tensor& grad : {grad_x, grad_refs}) {
        Tensor target = grad;
        torch::stable::fill_(target, std::numeric_limits<double>::quiet_NaN());
      }
      return;
    }
    const MatrixPair<T> rows{.x = data<T>(x),
                             .count = count,
                             .refs = ref_embeddings ? data<T>(refs) : nullptr,
                             .ref_count = ref_count,
                             .depth = depth};
    const PairList<T> list{.left = left ? data<int64_t>(*left) : nullptr,
                           .right = data<int64_t>(right),
                           .gradient = data<T>(gradient),
                           .count = entries,
                           .partners = right.size(1)};
    pair_gradient<T>(measure, rows, list, pool, need_embeddings ? mutable_data<T>(grad_x) : nullptr,
                     need_ref_embeddings ? mutable_data<T>(grad_refs) : nullptr);
  });
  return {as_array(grad_x, embeddings.scalar_type()), as_array(grad_refs, embeddings.scalar_type())};
}

// [B, 2] from two [B].
template <class T>
Tensor interleaved(const Tensor& positive, const Tensor& negative) {
  const Tensor p = contiguous_array(positive), n = contiguous_array(negative);
  const int64_t count = p.size(0);
  const Tensor pairs = new_array(p, {count, 2}, p.scalar_type());
  const T *from_p = data<T>(p), *from_n = data<T>(n);
  T* out = mutable_data<T>(pairs);
  for (int64_t i = 0; i < count; ++i) {
    out[2 * i] = from_p[i];
    out[2 * i + 1] = from_n[i];
  }
  return pairs;
}

PairTensors selected_pair_tensors(const Tensor& positive_index, const Tensor& negative_index,
                                  const Tensor& grad_positive, const Tensor& grad_negative, int64_t count,
                                  ScalarType type) {
  check_vector("positive_index", positive_index, count, ScalarType::Long);
  check_vector("negative_index", negative_index, count, ScalarType::Long);
  check_vector("grad_positive", grad_positive, count, type);
  check_vector("grad_negative", grad_negative, count, type);
  return {std::nullopt, interleaved<int64_t>(positive_index, negative_index),
          dispatch(type, [&]<class T>() { return interleaved<T>(grad_positive, grad_negative); })};
}

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> select_triplets_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> random, int64_t similarity, int64_t positive, int64_t negative, int64_t semihard_fallback,
    int64_t tie, double duplicate_threshold, double semihard_margin, bool allow_tf32) {
  const SelectionTensors selected =
      select_triplets_tensors(selection_rule(similarity, positive, negative, semihard_fallback, tie,
                                             duplicate_threshold, semihard_margin, allow_tf32),
                              {embeddings, labels, ref_embeddings, ref_labels}, random);
  return {selected.positive_similarity, selected.negative_similarity, selected.positive_index, selected.negative_index};
}

std::tuple<Tensor, Tensor> select_triplets_backward_cpu(Tensor grad_positive, Tensor grad_negative, Tensor embeddings,
                                                        std::optional<Tensor> ref_embeddings, Tensor positive_index,
                                                        Tensor negative_index, int64_t similarity, bool need_embeddings,
                                                        bool need_ref_embeddings) {
  check_matrix("embeddings", embeddings, -1);
  const PairTensors pairs = selected_pair_tensors(positive_index, negative_index, grad_positive, grad_negative,
                                                  embeddings.size(0), compute_type(embeddings));
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)), pairs, embeddings, ref_embeddings,
                               need_embeddings, need_ref_embeddings, false);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&select_triplets_cpu>(m, "select_triplets");
  implement<&select_triplets_backward_cpu>(m, "select_triplets_backward");
}

}  // namespace hardmine::cpu
