#include "cpu/engine/logsumexp.h"

#include "cpu/ops/temperature.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> logsumexp_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, Tensor temperature, std::optional<Tensor> bound,
    int64_t similarity, int64_t pairs, bool of_columns, bool positives, int64_t logit, double margin, bool allow_tf32) {
  const LogSumExpRule rule = logsumexp_rule(similarity, pairs, of_columns, positives, logit, margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const double value = temperature_of(temperature, inputs.embeddings);
  const LogSumExpTensors t(rule, inputs, bound);
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    const bool finite = logsumexp_forward<T>(rule, value, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr,
                                             inputs.depth, TorchThreadPool(), t.out<T>(), t.bound_data<T>());
    if (finite) return;  // divergence is never hidden
    for (const Tensor& output : {t.log_sum, t.column_log_sum, t.positive_similarity, t.state, t.column_state})
      std::fill_n(mutable_data<T>(output), output.numel(), std::numeric_limits<T>::quiet_NaN());
  });
  return t.all();
}

std::tuple<Tensor, Tensor> logsumexp_backward_cpu(
    Tensor grad_log_sum, std::optional<Tensor> grad_column, std::optional<Tensor> grad_positive, Tensor embeddings,
    Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
    std::optional<Tensor> ref_ids, Tensor temperature, std::optional<Tensor> bound, Tensor state, Tensor column_state,
    Tensor positive_count, int64_t similarity, int64_t pairs, bool of_columns, int64_t logit, double margin,
    bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) {
  const LogSumExpRule rule = logsumexp_rule(similarity, pairs, of_columns, false, logit, margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const double value = temperature_of(temperature, inputs.embeddings);
  const LogSumExpSavedTensors given(rule, inputs, grad_log_sum, grad_column, grad_positive, state, column_state,
                                    positive_count, bound);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings,
                                  {.rows = need_embeddings, .columns = need_ref_embeddings});
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    const bool finite =
        logsumexp_backward<T>(rule, value, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth,
                              given.saved<T>(), TorchThreadPool(), gradients.x_data<T>(), gradients.refs_data<T>());
    if (!finite) gradients.fill_nan<T>();
  });
  return gradients.as(embeddings.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&logsumexp_cpu>(m, "logsumexp");
  implement<&logsumexp_backward_cpu>(m, "logsumexp_backward");
}

}  // namespace hardmine::cpu
