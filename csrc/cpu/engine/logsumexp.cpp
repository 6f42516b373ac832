// Forward and backward take one pass each. A pair serves both its rows if both are anchors.

#include "cpu/engine/logsumexp.h"

#include <cmath>
#include <vector>

#include "cpu/engine/block_gradient.h"
#include "cpu/engine/block_pass.h"
#include "cpu/engine/running_logsumexp.h"

namespace hardmine::cpu {
namespace {

// The blocks of a pass.
PairKind kind_of(const LogSumExpRule& rule, bool positives) {
  if (rule.pairs == LogSumExpPairs::kPositive) return PairKind::kSameClass;
  return rule.pairs == LogSumExpPairs::kNegative && !positives ? PairKind::kOtherClass : PairKind::kAny;
}
bool excludes_positives(const LogSumExpRule& rule, bool positives) {
  return rule.pairs == LogSumExpPairs::kNegative && positives;
}

// Writes the state of the anchors that have a pair.
template <class T>
void write_state(const RunningSums<T>& sums, const SortedRows<T>& rows, const LogSumExpState<T>& state, T* log_sum) {
  for (int64_t i = 0; i < rows.count(); ++i) {
    if (!sums.has_pair(i)) continue;
    const Index anchor = rows.permutation()[i];
    const double total = sums.total(i);
    state.shift[anchor] = sums.shift[i];
    state.sum[anchor] = static_cast<T>(total);
    state.mean_offset[anchor] = static_cast<T>(sums.offset[i] / total);
    log_sum[anchor] = static_cast<T>(std::log(total));
  }
}

// The bounds of sorted rows; empty if there are none.
template <class T>
WorkspaceVector<T> bounds_of(const SortedRows<T>& rows, const T* bound) {
  if (!bound) return {};
  WorkspaceVector<T> sorted(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i) sorted[i] = bound[rows.permutation()[i]];
  return sorted;
}

template <class T>
void fill_without_pairs(int64_t count, const LogSumExpState<T>& state, T* log_sum) {
  std::fill_n(state.shift, count, T(0));
  std::fill_n(state.sum, count, T(0));
  std::fill_n(state.mean_offset, count, T(0));
  std::fill_n(log_sum, count, -std::numeric_limits<T>::infinity());
}

// The coefficients of sorted rows.
template <class T>
struct Coefficients {
  WorkspaceVector<T> weight, shift, positive_weight;

  Coefficients(const SortedRows<T>& rows, const SavedLogSumExp<T>& saved, double temperature, const T* grad_positive,
               const int64_t* positive_count)
      : weight(per_row(rows, T(0))),
        shift(per_row(rows, std::numeric_limits<T>::infinity())),
        positive_weight(grad_positive ? per_row(rows, T(0)) : WorkspaceVector<T>()) {
    for (int64_t i = 0; i < rows.count(); ++i) {
      const Index anchor = rows.permutation()[i];
      const LogSumExpCoefficients<T> of_anchor =
          logsumexp_coefficients(saved.gradient[anchor], saved.shift[anchor], saved.sum[anchor], temperature);
      weight[i] = of_anchor.weight;
      shift[i] = of_anchor.shift;
      if (grad_positive) positive_weight[i] = positive_coefficient(grad_positive[anchor], positive_count[anchor]);
    }
  }

  LogSumExpAnchors<T> view() const {
    return {.weight = weight.data(), .shift = shift.data(), .positive_weight = positive_weight.data()};
  }
};

}  // namespace

template <class T>
bool logsumexp_forward(const LogSumExpRule& rule, double temperature, const LabeledMatrix<T>& anchors,
                       const LabeledMatrix<T>* refs, int64_t depth, const ThreadPool& pool, const LogSumExpOut<T>& out,
                       const T* bound) {
  fill_without_pairs(anchors.count, out.rows, out.log_sum);
  if (rule.of_columns) fill_without_pairs(refs->count, out.columns, out.column_log_sum);
  if (rule.positives) {
    std::fill_n(out.positive_similarity, anchors.count, T(0));
    std::fill_n(out.positive_count, anchors.count, int64_t{0});
  }
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (operands.empty()) return operands.finite();
  const PairwiseParams<T>& params = operands.params();
  const SortedRows<T>&rows = operands.rows(), &columns = operands.columns();
  RunningSums<T> of_rows(rows, rule.positives);
  std::vector<RunningSums<T>> of_columns;
  if (rule.of_columns) of_columns.emplace_back(columns, false);

  LogSumExpUpdate<T> update{};
  update.log2e_over_temperature = static_cast<T>(kLog2E / temperature);
  update.excludes_positives = excludes_positives(rule, rule.positives);
  const WorkspaceVector<T> bounds = bounds_of(rows, bound);
  update.logit = pair_logit<T>(rule);
  update.bound = bound ? bounds.data() : nullptr;
  update.rows = of_rows.view();
  update.row_positives = of_rows.positives();
  if (params.symmetric) {
    update.columns = update.rows;
    update.column_positives = update.row_positives;
  } else if (rule.of_columns) {
    update.columns = of_columns[0].view();
  }
  const LogSumExpKernels<T>& kernel = kernels<LogSumExpKernels<T>>();
  for_each_block(operands, kind_of(rule, rule.positives), 1, pool, [&](int64_t, const Block& block, T* scores) {
    kernel.logsumexp_update(params, block, update, scores);
  });

  write_state(of_rows, rows, out.rows, out.log_sum);
  if (rule.of_columns) write_state(of_columns[0], columns, out.columns, out.column_log_sum);
  if (rule.positives)
    for (int64_t i = 0; i < rows.count(); ++i) {
      const Index anchor = rows.permutation()[i];
      const int64_t count = of_rows.positive_count[i];
      out.positive_count[anchor] = count;
      if (count > 0)
        out.positive_similarity[anchor] = static_cast<T>(of_rows.positive_sum[i] / static_cast<double>(count));
    }
  return operands.finite();
}

template <class T>
bool logsumexp_backward(const LogSumExpRule& rule, double temperature, const LabeledMatrix<T>& anchors,
                        const LabeledMatrix<T>* refs, int64_t depth, const LogSumExpSaved<T>& saved,
                        const ThreadPool& pool, T* grad_x, T* grad_refs) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (!operands.finite()) return false;
  if (operands.empty()) {
    if (grad_x) std::fill_n(grad_x, anchors.count * depth, T(0));
    if (grad_refs) std::fill_n(grad_refs, refs->count * depth, T(0));
    return true;
  }
  const PairwiseParams<T>& params = operands.params();
  const bool positives = saved.grad_positive != nullptr;
  const Coefficients<T> of_rows(operands.rows(), saved.rows, temperature, saved.grad_positive, saved.positive_count);
  std::vector<Coefficients<T>> of_columns;
  if (rule.of_columns) of_columns.emplace_back(operands.columns(), saved.columns, temperature, nullptr, nullptr);

  LogSumExpWeights<T> weights{};
  weights.log2e_over_temperature = static_cast<T>(kLog2E / temperature);
  weights.excludes_positives = excludes_positives(rule, positives);
  weights.positives = positives;
  const WorkspaceVector<T> bounds = bounds_of(operands.rows(), saved.bound);
  weights.logit = pair_logit<T>(rule);
  weights.bound = saved.bound ? bounds.data() : nullptr;
  weights.rows = of_rows.view();
  if (params.symmetric) {
    weights.columns = weights.rows;
  } else if (rule.of_columns) {
    weights.columns = of_columns[0].view();
  }
  const LogSumExpKernels<T>& kernel = kernels<LogSumExpKernels<T>>();
  BlockGradient<T> gradient(operands, {.rows = grad_x != nullptr, .columns = grad_refs != nullptr}, pool);
  for_each_block(operands, kind_of(rule, positives), 3, pool, [&](int64_t, const Block& block, T* scores) {
    kernel.logsumexp_weights(params, block, weights, scores);
    gradient.add(block, scores);
  });
  gradient.finish(T(1), grad_x, grad_refs);
  return true;
}

template decltype(logsumexp_forward<float>) logsumexp_forward<float>;
template decltype(logsumexp_backward<float>) logsumexp_backward<float>;
template decltype(logsumexp_forward<double>) logsumexp_forward<double>;
template decltype(logsumexp_backward<double>) logsumexp_backward<double>;

}  // namespace hardmine::cpu
