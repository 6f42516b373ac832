#include "cpu/engine/sigmoid_loss.h"

#include <numeric>
#include <vector>

#include "cpu/engine/block_gradient.h"
#include "cpu/engine/block_pass.h"
#include "cpu/simd/sigmoid_block_table.h"

namespace hardmine::cpu {

template <class T>
bool sigmoid_forward(const SigmoidRule& rule, const Logit<double>& logit, const LabeledMatrix<T>& queries,
                     const LabeledMatrix<T>& keys, int64_t depth, const ThreadPool& pool, const SigmoidOut<T>& out) {
  for (T* numbers : {out.value, out.by_scale, out.by_bias}) std::fill_n(numbers, queries.count, T(0));
  const PairwiseOperands<T> operands(measure_of(rule.similarity), queries, &keys, depth, pool);
  if (operands.empty()) return operands.finite();
  const SortedRows<T>& rows = operands.rows();
  WorkspaceVector<double> value(rows.count(), 0.0), by_scale(rows.count(), 0.0), by_bias(rows.count(), 0.0);
  const SigmoidRowSums<T> sums{.scale = static_cast<T>(logit.scale),
                               .bias = static_cast<T>(logit.bias),
                               .value = value.data(),
                               .by_scale = by_scale.data(),
                               .by_bias = by_bias.data()};
  const SigmoidKernels<T>& kernel = kernels<SigmoidKernels<T>>();
  for_each_block(operands, PairKind::kAny, 1, pool, [&](int64_t, const Block& block, T* scores) {
    kernel.sigmoid_sums(operands.params(), block, sums, nullptr, scores);
  });
  for (int64_t i = 0; i < rows.count(); ++i) {
    const Index query = rows.permutation()[i];
    out.value[query] = static_cast<T>(value[i]);
    out.by_scale[query] = static_cast<T>(by_scale[i]);
    out.by_bias[query] = static_cast<T>(by_bias[i]);
  }
  return operands.finite();
}

template <class T>
bool sigmoid_backward(const SigmoidRule& rule, const Logit<double>& logit, const LabeledMatrix<T>& queries,
                      const LabeledMatrix<T>& keys, int64_t depth, const T* grad_value, const ThreadPool& pool,
                      T* grad_queries, T* grad_keys) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), queries, &keys, depth, pool);
  if (!operands.finite()) return false;
  if (operands.empty()) {
    if (grad_queries) std::fill_n(grad_queries, queries.count * depth, T(0));
    if (grad_keys) std::fill_n(grad_keys, keys.count * depth, T(0));
    return true;
  }
  const SortedRows<T>& rows = operands.rows();
  WorkspaceVector<T> row_weight(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i)
    row_weight[i] = static_cast<T>(static_cast<double>(grad_value[rows.permutation()[i]]) * logit.scale);
  const SigmoidWeights<T> weights{
      .scale = static_cast<T>(logit.scale), .bias = static_cast<T>(logit.bias), .row_weight = row_weight.data()};
  const SigmoidKernels<T>& kernel = kernels<SigmoidKernels<T>>();
  BlockGradient<T> gradient(operands, {.rows = grad_queries != nullptr, .columns = grad_keys != nullptr}, pool);
  for_each_block(operands, PairKind::kAny, 3, pool, [&](int64_t, const Block& block, T* scores) {
    kernel.sigmoid_weights(operands.params(), block, weights, scores);
    gradient.add(block, scores);
  });
  gradient.finish(T(1), grad_queries, grad_keys);
  return true;
}

template <class T>
bool sigmoid_with_gradients(const SigmoidRule& rule, const Logit<double>& logit, bool is_mean, const Matrix<T>& queries,
                            const Matrix<T>& keys, int64_t depth, const ThreadPool& pool,
                            const SigmoidGradients<T>& out) {
  WorkspaceVector<int64_t> number(queries.count);
  std::iota(number.begin(), number.end(), int64_t{0});
  const LabeledMatrix<T> anchors{queries.x, number.data(), queries.count};
  const LabeledMatrix<T> refs{keys.x, number.data(), keys.count};
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, &refs, depth, pool);
  if (!operands.finite()) return false;
  *out.loss = T(0);
  if (out.grad_logit) out.grad_logit[0] = out.grad_logit[1] = 0;
  if (operands.empty()) return true;  // gradients have no element
  const int64_t count = operands.rows().count();
  const double divisor = is_mean ? static_cast<double>(count) : 1;
  WorkspaceVector<double> value(count, 0.0), by_scale(count, 0.0), by_bias(count, 0.0);
  const SigmoidRowSums<T> sums{.scale = static_cast<T>(logit.scale),
                               .bias = static_cast<T>(logit.bias),
                               .value = value.data(),
                               .by_scale = by_scale.data(),
                               .by_bias = by_bias.data()};
  const bool has_gradient = out.grad_query || out.grad_key;
  const WorkspaceVector<T> row_weights(has_gradient ? count : 0, static_cast<T>(logit.scale / divisor));
  const SigmoidKernels<T>& kernel = kernels<SigmoidKernels<T>>();
  const auto add_sums = [&](const Block& block, T* scores) {
    kernel.sigmoid_sums(operands.params(), block, sums, has_gradient ? row_weights.data() : nullptr, scores);
  };
  if (has_gradient) {
    BlockGradient<T> gradient(operands, {.rows = out.grad_query != nullptr, .columns = out.grad_key != nullptr}, pool);
    for_each_block(operands, PairKind::kAny, 3, pool, [&](int64_t, const Block& block, T* scores) {
      add_sums(block, scores);
      gradient.add(block, scores);
    });
    gradient.finish(T(1), out.grad_query, out.grad_key);
  } else {
    for_each_block(operands, PairKind::kAny, 1, pool,
                   [&](int64_t, const Block& block, T* scores) { add_sums(block, scores); });
  }
  const auto total = [&](const WorkspaceVector<double>& of_rows) {
    return std::accumulate(of_rows.begin(), of_rows.end(), 0.0) / divisor;
  };
  *out.loss = static_cast<T>(total(value));
  if (!out.grad_logit) return true;
  out.grad_logit[0] = total(by_scale);
  out.grad_logit[1] = total(by_bias);
  return true;
}

template decltype(sigmoid_with_gradients<float>) sigmoid_with_gradients<float>;
template decltype(sigmoid_with_gradients<double>) sigmoid_with_gradients<double>;
template decltype(sigmoid_forward<float>) sigmoid_forward<float>;
template decltype(sigmoid_backward<float>) sigmoid_backward<float>;
template decltype(sigmoid_forward<double>) sigmoid_forward<double>;
template decltype(sigmoid_backward<double>) sigmoid_backward<double>;

}  // namespace hardmine::cpu
