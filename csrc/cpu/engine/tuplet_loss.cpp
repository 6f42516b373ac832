// Forward takes up to three passes: selection of each anchor's positive, and of its hardest negative unless one shift
// suffices for all anchors; sums of exponentials over other-class pairs; with all positives, sums of softplus over
// same-class pairs. Backward takes one pass: it recomputes the similarities, turns them into weights, and adds up the
// gradient.

#include "cpu/engine/tuplet_loss.h"

#include <cmath>
#include <vector>

#include "cpu/engine/block_gradient.h"
#include "cpu/engine/block_pass.h"
#include "cpu/engine/selection_pass.h"
#include "cpu/simd/tuplet_block_table.h"

namespace hardmine::cpu {
namespace {

// An array with one element per sorted row, padded as the kernels read it.
template <class T>
WorkspaceVector<T> per_row(const PairwiseOperands<T>& operands, T fill) {
  return WorkspaceVector<T>(round_up(operands.rows().count(), kBlockStep), fill);
}

}  // namespace

template <class T>
bool tuplet_forward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                    int64_t depth, const ThreadPool& pool, const TupletOut<T>& out) {
  const TupletKernels<T>& kernel = kernels<TupletKernels<T>>();
  const T infinity = std::numeric_limits<T>::infinity();
  std::fill_n(out.loss, anchors.count, T(0));
  std::fill_n(out.logsumexp, anchors.count, -infinity);
  std::fill_n(out.shift, anchors.count, T(0));
  std::fill_n(out.sum, anchors.count, T(0));
  std::fill_n(out.slope, anchors.count, T(0));
  std::fill_n(out.positive_similarity, anchors.count, T(0));
  std::fill_n(out.positive_index, anchors.count, int64_t{-1});
  std::fill_n(out.positive_count, anchors.count, int64_t{0});
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (operands.empty()) return operands.finite();

  const SortedRows<T>& rows = operands.rows();
  const PairwiseParams<T>& params = operands.params();
  const bool all = rule.positive == TupletPositive::kAll, one_shift = one_shift_suffices(rule);
  const SelectionRule selection = tuplet_selection(rule);
  const KeyRange<T> admissible = positive_range<T>(selection);
  const bool least_similar = prefers_least_similar(selection.positive);
  std::vector<SelectionSpec<T>> specs;
  if (!all)
    specs.push_back({.kind = PairKind::kSameClass,
                     .least_similar = least_similar,
                     .bounded = admissible.upper < infinity,
                     .range = [&](int64_t) { return admissible; }});
  if (!one_shift)
    specs.push_back({.kind = PairKind::kOtherClass, .least_similar = false, .bounded = false, .range = [](int64_t) {
                       return unlimited_range<T>();
                     }});
  std::vector<SelectionResult<T>> results;
  if (!specs.empty()) results = run_pass(rows, operands.columns(), params, specs, pool);
  if (!all) {
    for (int64_t i = 0; i < rows.count(); ++i) {
      if (!is_candidate(results[0].index[i])) continue;
      const Index anchor = rows.permutation()[i];
      const T key = results[0].key[i];
      out.positive_index[anchor] = results[0].index[i];
      out.positive_similarity[anchor] = similarity_from_key(rule.similarity, least_similar ? -key : key);
    }
  }

  ExponentialSums<T> exponentials{};
  exponentials.log2e_over_temperature = static_cast<T>(kLog2E / rule.temperature);
  exponentials.shift = T(1);
  WorkspaceVector<T> shift = per_row(operands, exponentials.shift);
  if (!one_shift) {
    for (int64_t i = 0; i < rows.count(); ++i)
      if (is_candidate(results.back().index[i]))
        shift[i] = unclamped_similarity(rule.similarity, results.back().key[i]);  // no pair of the row exceeds it
    exponentials.row_shift = shift.data();
    exponentials.column_shift = shift.data();  // read if the pass is symmetric
  }
  WorkspaceVector<double> sum(rows.count(), 0.0);
  exponentials.row_sum = sum.data();
  exponentials.column_sum = params.symmetric ? sum.data() : nullptr;
  for_each_block(operands, PairKind::kOtherClass, 1, pool, [&](int64_t, const Block& block, const T* scores) {
    kernel.exponential_sums(params, block, scores, exponentials);
  });
  WorkspaceVector<T> log_sum = per_row(operands, -infinity);
  for (int64_t i = 0; i < rows.count(); ++i) {
    const Index anchor = rows.permutation()[i];
    log_sum[i] = static_cast<T>(log_of_sum(sum[i]));
    out.shift[anchor] = shift[i];
    out.sum[anchor] = static_cast<T>(sum[i]);
    out.logsumexp[anchor] = static_cast<T>(static_cast<double>(shift[i]) / rule.temperature + log_of_sum(sum[i]));
  }

  if (!all) {
    for (int64_t i = 0; i < anchors.count; ++i) {
      if (!is_valid_tuplet(out.positive_index[i] >= 0, out.sum[i])) continue;
      const TupletTerm term =
          tuplet_term(out.shift[i], log_of_sum(out.sum[i]), out.positive_similarity[i], rule.temperature);
      out.loss[i] = static_cast<T>(term.value);
      out.slope[i] = static_cast<T>(term.slope);
      out.positive_count[i] = 1;
    }
    return operands.finite();
  }
  WorkspaceVector<double> value(rows.count(), 0.0), slope(rows.count(), 0.0);
  WorkspaceVector<int64_t> count(rows.count(), 0);
  SoftplusSums<T> softplus{};
  softplus.inv_temperature = static_cast<T>(1 / rule.temperature);
  softplus.limit = max_key(rule.similarity, static_cast<T>(rule.duplicate_threshold));
  softplus.row_shift = shift.data();
  softplus.row_log_sum = log_sum.data();
  softplus.row_sum = value.data();
  softplus.row_slope = slope.data();
  softplus.row_count = count.data();
  if (params.symmetric) {
    softplus.column_shift = shift.data();
    softplus.column_log_sum = log_sum.data();
    softplus.column_sum = value.data();
    softplus.column_slope = slope.data();
    softplus.column_count = count.data();
  }
  for_each_block(operands, PairKind::kSameClass, 1, pool, [&](int64_t, const Block& block, const T* scores) {
    kernel.softplus_sums(params, block, scores, softplus);
  });
  for (int64_t i = 0; i < rows.count(); ++i) {
    if (!is_valid_tuplet(count[i], sum[i])) continue;
    const Index anchor = rows.permutation()[i];
    out.loss[anchor] = static_cast<T>(value[i] / static_cast<double>(count[i]));
    out.slope[anchor] = static_cast<T>(slope[i] / static_cast<double>(count[i]));
    out.positive_count[anchor] = count[i];
  }
  return operands.finite();
}

template <class T>
bool tuplet_backward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const TupletSaved<T>& saved, const ThreadPool& pool, T* grad_x, T* grad_refs) {
  const TupletKernels<T>& kernel = kernels<TupletKernels<T>>();
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (!operands.finite()) return false;
  if (operands.empty()) {
    if (grad_x) std::fill_n(grad_x, anchors.count * depth, T(0));
    if (grad_refs) std::fill_n(grad_refs, refs->count * depth, T(0));
    return true;
  }
  const SortedRows<T>& rows = operands.rows();
  const PairwiseParams<T>& params = operands.params();
  const bool all = rule.positive == TupletPositive::kAll;

  TupletWeights<T> weights{};
  weights.log2e_over_temperature = static_cast<T>(kLog2E / rule.temperature);
  weights.inv_temperature = static_cast<T>(1 / rule.temperature);
  weights.shift = T(1);
  weights.limit = max_key(rule.similarity, static_cast<T>(rule.duplicate_threshold));
  weights.one_shift = one_shift_suffices(rule);
  WorkspaceVector<T> negative_weight = per_row(operands, T(0)), positive_weight = per_row(operands, T(0));
  WorkspaceVector<T> shift = per_row(operands, std::numeric_limits<T>::infinity()), log_sum = per_row(operands, T(0));
  WorkspaceVector<Index> positive(negative_weight.size(), kBelowRange);
  for (int64_t i = 0; i < rows.count(); ++i) {
    const Index anchor = rows.permutation()[i];
    const int64_t count = saved.positive_count[anchor];
    const AnchorCoefficients<T> coefficients = anchor_coefficients(rule, saved.grad_loss[anchor], saved.shift[anchor],
                                                                   saved.sum[anchor], saved.slope[anchor], count);
    negative_weight[i] = coefficients.negative_weight;
    shift[i] = coefficients.shift;
    positive_weight[i] = coefficients.positive_weight;
    log_sum[i] = coefficients.log_sum;
    if (count > 0 && !all) positive[i] = static_cast<Index>(saved.positive_index[anchor]);
  }
  weights.rows = {.negative_weight = negative_weight.data(),
                  .shift = shift.data(),
                  .positive_weight = positive_weight.data(),
                  .log_sum = log_sum.data(),
                  .positive = all ? nullptr : positive.data()};
  weights.columns = weights.rows;

  BlockGradient<T> gradient(operands, {.rows = grad_x != nullptr, .columns = grad_refs != nullptr}, pool);
  for_each_block(operands, PairKind::kAny, 3, pool, [&](int64_t, const Block& block, T* scores) {
    kernel.tuplet_weights(params, block, weights, scores);
    gradient.add(block, scores);
  });
  gradient.finish(T(1), grad_x, grad_refs);
  return true;
}

template decltype(tuplet_forward<float>) tuplet_forward<float>;
template decltype(tuplet_backward<float>) tuplet_backward<float>;
template decltype(tuplet_forward<double>) tuplet_forward<double>;
template decltype(tuplet_backward<double>) tuplet_backward<double>;

}  // namespace hardmine::cpu
