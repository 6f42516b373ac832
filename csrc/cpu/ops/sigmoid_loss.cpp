#include "cpu/engine/sigmoid_loss.h"

#include <cmath>

#include "cpu/ops/loss_with_gradients.h"
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

std::tuple<Tensor, Tensor, Tensor, Tensor> sigmoid_loss_with_gradients_cpu(Tensor query, Tensor key, Tensor logit,
                                                                           int64_t similarity, bool is_mean,
                                                                           bool need_query, bool need_key,
                                                                           bool need_logit) {
  const SigmoidRule rule = sigmoid_rule(similarity, false);
  check_matrix("query", query, -1);
  check_refs("key", key, "query", query);
  const int64_t count = query.size(0), depth = query.size(1);
  check(key.size(0) == count, "key must be [B, D] of query");
  const Logit<double> numbers = logit_of(logit, query);
  const Tensor x = embedding_array(query), y = embedding_array(key);
  const ScalarType type = x.scalar_type();
  const Tensor loss = new_array(x, {}, type);
  const GradientTensors gradients(x, y, {.rows = need_query, .columns = need_key});
  const Tensor grad_logit = new_array(logit, {need_logit ? 2 : 0}, ScalarType::Double);
  dispatch(type, [&]<class T>() {
    double* of_logit = need_logit ? mutable_data<double>(grad_logit) : nullptr;
    const SigmoidGradients<T> out{.loss = mutable_data<T>(loss),
                                  .grad_query = gradients.x_data<T>(),
                                  .grad_key = gradients.refs_data<T>(),
                                  .grad_logit = of_logit};
    if (is_finite(numbers) && sigmoid_with_gradients<T>(rule, numbers, is_mean, Matrix<T>{data<T>(x), count},
                                                        Matrix<T>{data<T>(y), count}, depth, TorchThreadPool(), out))
      return;
    // Divergence is never hidden.
    *out.loss = std::numeric_limits<T>::quiet_NaN();
    gradients.fill_nan<T>();
    if (of_logit) std::fill_n(of_logit, 2, std::numeric_limits<double>::quiet_NaN());
  });
  return {loss, gradients.x, gradients.refs, grad_logit};
}

// Query, key and logit are arguments only so that autograd notices a second derivative.
std::tuple<Tensor, Tensor, Tensor> sigmoid_loss_with_gradients_backward_cpu(Tensor grad_loss, Tensor grad_query,
                                                                            Tensor grad_key, Tensor grad_logit, Tensor,
                                                                            Tensor, Tensor, bool need_query,
                                                                            bool need_key, bool need_logit) {
  return {scaled_gradient(grad_loss, "grad_query", grad_query, need_query),
          scaled_gradient(grad_loss, "grad_key", grad_key, need_key),
          scaled_numbers(grad_loss, "grad_logit", grad_logit, need_logit)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&sigmoid_loss_cpu>(m, "sigmoid_loss");
  implement<&sigmoid_loss_backward_cpu>(m, "sigmoid_loss_backward");
  implement<&sigmoid_loss_with_gradients_cpu>(m, "sigmoid_loss_with_gradients");
  implement<&sigmoid_loss_with_gradients_backward_cpu>(m, "sigmoid_loss_with_gradients_backward");
}

}  // namespace hardmine::cpu
