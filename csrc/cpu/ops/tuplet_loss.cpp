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
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const TupletTensors t(inputs);
  const Tensor loss = inputs.new_loss(rule.reduction);
  const bool reduced = rule.reduction != Reduction::kNone;
  const Tensor term = reduced ? inputs.new_vector(inputs.type) : loss;
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    const bool finite = tuplet_forward<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr,
                                          inputs.depth, TorchThreadPool(), t.out<T>(term));
    if (!finite) {  // divergence is never hidden
      std::fill_n(mutable_data<T>(loss), loss.numel(), std::numeric_limits<T>::quiet_NaN());
    } else if (reduced) {
      *mutable_data<T>(loss) =
          reduce_tuplets(rule.reduction, data<T>(term), data<int64_t>(t.positive_count), inputs.count);
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
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const TupletSavedTensors given(rule, inputs, grad_loss, shift, sum, slope, positive_index, positive_count);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings,
                                  {.rows = need_embeddings, .columns = need_ref_embeddings});
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    TupletSaved<T> saved = given.saved<T>();
    const std::vector<T> of_terms =
        tuplet_gradients(rule.reduction, saved.grad_loss, saved.positive_count, inputs.count);
    saved.grad_loss = of_terms.data();
    const bool finite =
        tuplet_backward<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth, saved,
                           TorchThreadPool(), gradients.x_data<T>(), gradients.refs_data<T>());
    if (!finite) gradients.fill_nan<T>();
  });
  return gradients.as(embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&tuplet_loss_cpu>(m, "tuplet_loss");
  implement<&tuplet_loss_backward_cpu>(m, "tuplet_loss_backward");
}

}  // namespace hardmine::cpu
