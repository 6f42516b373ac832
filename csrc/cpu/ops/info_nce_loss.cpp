#include "cpu/engine/info_nce_loss.h"

#include "cpu/ops/loss_with_gradients.h"
#include "cpu/ops/temperature.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce_loss_cpu(Tensor query, Tensor key, Tensor temperature,
                                                             int64_t similarity, bool symmetric, bool is_mean,
                                                             bool need_query, bool need_key, bool need_temperature) {
  const InfoNceRule rule{
      .similarity = flat_similarity_from_code(similarity), .symmetric = symmetric, .is_mean = is_mean};
  check_matrix("query", query, -1);
  check_refs("key", key, "query", query);
  const int64_t count = query.size(0), depth = query.size(1);
  check(key.size(0) >= count, "key must have a row for each of query");
  check(!symmetric || key.size(0) == count, "key must be [B, D] of query with symmetric");
  const double t = temperature_of(temperature, query);
  const Tensor x = embedding_array(query), y = embedding_array(key);
  const ScalarType type = x.scalar_type();
  const Tensor loss = new_array(x, {}, type);
  const GradientTensors gradients(x, y, {.rows = need_query, .columns = need_key});
  const Tensor grad_temperature = need_temperature ? new_array(temperature, {}, ScalarType::Double)
                                                   : new_array(temperature, {0}, ScalarType::Double);
  dispatch(type, [&]<class T>() {
    double* of_temperature = need_temperature ? mutable_data<double>(grad_temperature) : nullptr;
    if (info_nce_loss<T>(rule, t, Matrix<T>{data<T>(x), count}, Matrix<T>{data<T>(y), key.size(0)}, depth,
                         TorchThreadPool(),
                         {.loss = mutable_data<T>(loss),
                          .grad_query = gradients.x_data<T>(),
                          .grad_key = gradients.refs_data<T>(),
                          .grad_temperature = of_temperature}))
      return;
    // Divergence is never hidden.
    *mutable_data<T>(loss) = std::numeric_limits<T>::quiet_NaN();
    gradients.fill_nan<T>();
    if (of_temperature) *of_temperature = std::numeric_limits<double>::quiet_NaN();
  });
  return {loss, gradients.x, gradients.refs, grad_temperature};
}

// Query, key and temperature are arguments only so that autograd notices a second derivative.
std::tuple<Tensor, Tensor, Tensor> info_nce_loss_backward_cpu(Tensor grad_loss, Tensor grad_query, Tensor grad_key,
                                                              Tensor grad_temperature, Tensor, Tensor, Tensor,
                                                              bool need_query, bool need_key, bool need_temperature) {
  return {scaled_gradient(grad_loss, "grad_query", grad_query, need_query),
          scaled_gradient(grad_loss, "grad_key", grad_key, need_key),
          scaled_numbers(grad_loss, "grad_temperature", grad_temperature, need_temperature)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&info_nce_loss_cpu>(m, "info_nce_loss");
  implement<&info_nce_loss_backward_cpu>(m, "info_nce_loss_backward");
}

}  // namespace hardmine::cpu
