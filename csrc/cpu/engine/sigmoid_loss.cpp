#include "cpu/engine/sigmoid_loss.h"

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
  for_each_block(operands, PairKind::kAny, 1, pool, [&](int64_t, const Block& block, const T* scores) {
    kernel.sigmoid_sums(operands.params(), block, scores, sums);
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

template decltype(sigmoid_forward<float>) sigmoid_forward<float>;
template decltype(sigmoid_backward<float>) sigmoid_backward<float>;
template decltype(sigmoid_forward<double>) sigmoid_forward<double>;
template decltype(sigmoid_backward<double>) sigmoid_backward<double>;

}  // namespace hardmine::cpu
