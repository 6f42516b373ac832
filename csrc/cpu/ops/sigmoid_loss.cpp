#include "cpu/engine/sigmoid_loss.h"

#include <cmath>

#include "cpu/ops/torch_bridge.h"
#include "sigmoid_tensors.h"

namespace hardmine::cpu {
namespace {

Logit<double> logit_of(const Tensor& logit, const Tensor& query) {
  const Tensor checked = checked_logit(logit, query);
  return {.scale = data<double>(checked)[0], .bias = data<double>(checked)[1]};
}

bool is_finite(const Logit<double>& logit) { return std::isfinite(logit.scale) && std::isfinite(logit.bias); }

std::tuple<Tensor, Tensor> sigmoid_loss_cpu(Tensor query, Tensor labels, Tensor key, Tensor key_labels, Tensor logit,
                                            int64_t similarity, bool allow_tf32) {
  const SigmoidRule rule = sigmoid_rule(similarity, allow_tf32);
  const LabeledInputs inputs(query, labels, key, key_labels, std::nullopt, std::nullopt);
  const Logit<double> numbers = logit_of(logit, inputs.embeddings);
  const SigmoidTensors t(inputs);
  dispatch(inputs.type, [&]<class T>() {
    const bool finite = is_finite(numbers) && sigmoid_forward<T>(rule, numbers, inputs.anchors<T>(), inputs.refs<T>(),
                                                                 inputs.depth, TorchThreadPool(), t.out<T>());
    if (finite) return;  // divergence is never hidden
    for (const Tensor& output : {t.value, t.slopes})
      std::fill_n(mutable_data<T>(output), output.numel(), std::numeric_limits<T>::quiet_NaN());
  });
  return {t.value, t.slopes};
}

std::tuple<Tensor, Tensor> sigmoid_loss_backward_cpu(Tensor grad_value, Tensor query, Tensor labels, Tensor key,
                                                     Tensor key_labels, Tensor logit, int64_t similarity,
                                                     bool allow_tf32, bool need_query, bool need_key) {
  const SigmoidRule rule = sigmoid_rule(similarity, allow_tf32);
  const LabeledInputs inputs(query, labels, key, key_labels, std::nullopt, std::nullopt);
  const Logit<double> numbers = logit_of(logit, inputs.embeddings);
  const Tensor grad = checked_vector("grad_value", grad_value, inputs.embeddings, inputs.type);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings, {.rows = need_query, .columns = need_key});
  dispatch(inputs.type, [&]<class T>() {
    const bool finite = is_finite(numbers) && sigmoid_backward<T>(rule, numbers, inputs.anchors<T>(), inputs.refs<T>(),
                                                                  inputs.depth, data<T>(grad), TorchThreadPool(),
                                                                  gradients.x_data<T>(), gradients.refs_data<T>());
    if (!finite) gradients.fill_nan<T>();
  });
  return gradients.as(query.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&sigmoid_loss_cpu>(m, "sigmoid_loss");
  implement<&sigmoid_loss_backward_cpu>(m, "sigmoid_loss_backward");
}

}  // namespace hardmine::cpu
