#include "cpu/engine/tuplet_loss.h"

#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

using TupletOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

TupletOutputs tuplet_loss_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                              std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                              std::optional<Tensor> ref_ids, int64_t similarity, int64_t positive, double temperature,
                              double duplicate_threshold, int64_t reduction, bool allow_tf32) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const SelectionInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const int64_t count = embeddings.size(0), depth = embeddings.size(1);
  const TupletTensors t(inputs.embeddings, inputs.labels, inputs.type);
  const Tensor value = new_array(inputs.embeddings, {count}, inputs.type);
  const bool reduced = rule.reduction != Reduction::kNone;
  const Tensor loss = reduced ? new_array(inputs.embeddings, {}, inputs.type) : value;
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.ref_embeddings ? inputs.refs<T>() : LabeledMatrix<T>{};
    const bool finite =
        tuplet_forward<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, depth, TorchThreadPool(),
                          {.loss = mutable_data<T>(value),
                           .logsumexp = mutable_data<T>(t.logsumexp),
                           .shift = mutable_data<T>(t.shift),
                           .sum = mutable_data<T>(t.sum),
                           .slope = mutable_data<T>(t.slope),
                           .positive_similarity = mutable_data<T>(t.positive_similarity),
                           .positive_index = mutable_data<int64_t>(t.positive_index),
                           .positive_count = mutable_data<int64_t>(t.positive_count)});
    if (!finite) {  // divergence is never hidden
      std::fill_n(mutable_data<T>(loss), loss.numel(), std::numeric_limits<T>::quiet_NaN());
    } else if (reduced) {
      *mutable_data<T>(loss) = reduce_tuplets(rule.reduction, data<T>(value), data<int64_t>(t.positive_count), count);
    }
  });
  return {loss, t.logsumexp, t.positive_similarity, t.shift, t.sum, t.slope, t.positive_index, t.positive_count};
}

std::tuple<Tensor, Tensor> tuplet_loss_backward_cpu(Tensor grad_loss, Tensor embeddings, Tensor labels,
                                                    std::optional<Tensor> ref_embeddings,
                                                    std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                    std::optional<Tensor> ref_ids, Tensor shift, Tensor sum,
                                                    Tensor slope, Tensor positive_index, Tensor positive_count,
                                                    int64_t similarity, int64_t positive, double temperature,
                                                    double duplicate_threshold, int64_t reduction, bool allow_tf32,
                                                    bool need_embeddings, bool need_ref_embeddings) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const SelectionInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const int64_t count = embeddings.size(0), depth = embeddings.size(1);
  const ScalarType type = inputs.type;
  const TupletSavedTensors given(rule, inputs.embeddings, type, grad_loss, shift, sum, slope, positive_index,
                                 positive_count);
  need_ref_embeddings &= ref_embeddings.has_value();
  const auto new_gradient = [&](bool need, int64_t rows) {
    return need ? new_array(inputs.embeddings, {rows, depth}, type) : new_array(inputs.embeddings, {0}, type);
  };
  const Tensor grad_x = new_gradient(need_embeddings, count),
               grad_refs = new_gradient(need_ref_embeddings, ref_embeddings ? ref_embeddings->size(0) : 0);
  dispatch(type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.ref_embeddings ? inputs.refs<T>() : LabeledMatrix<T>{};
    const std::vector<T> gradient =
        tuplet_gradients(rule.reduction, data<T>(given.gradient), data<int64_t>(given.positive_count), count);
    const bool finite = tuplet_backward<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, depth,
                                           {.grad_loss = gradient.data(),
                                            .shift = data<T>(given.shift),
                                            .sum = data<T>(given.sum),
                                            .slope = data<T>(given.slope),
                                            .positive_index = data<int64_t>(given.positive_index),
                                            .positive_count = data<int64_t>(given.positive_count)},
                                           TorchThreadPool(), need_embeddings ? mutable_data<T>(grad_x) : nullptr,
                                           need_ref_embeddings ? mutable_data<T>(grad_refs) : nullptr);
    if (finite) return;
    for (const Tensor& target : {grad_x, grad_refs})
      std::fill_n(mutable_data<T>(target), target.numel(), std::numeric_limits<T>::quiet_NaN());
  });
  return {as_array(grad_x, embeddings.scalar_type()), as_array(grad_refs, embeddings.scalar_type())};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&tuplet_loss_cpu>(m, "tuplet_loss");
  implement<&tuplet_loss_backward_cpu>(m, "tuplet_loss_backward");
}

}  // namespace hardmine::cpu
