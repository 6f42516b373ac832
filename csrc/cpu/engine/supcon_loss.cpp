// One pass adds up exponentials and positives, a second one gradients. The similarities of small batches are kept in
// between. A pair serves both its rows if both are anchors.

#include "cpu/engine/supcon_loss.h"

#include <cmath>

#include "core/losses/logsumexp.h"
#include "cpu/engine/block_gradient.h"
#include "cpu/engine/block_pass.h"
#include "cpu/engine/running_logsumexp.h"

namespace hardmine::cpu {
namespace {

template <class T>
void fill_zeros(T* gradient, int64_t count, int64_t depth) {
  if (gradient) std::fill_n(gradient, count * depth, T(0));
}

// The coefficients of sorted rows in the derivatives of their pairs.
template <class T>
struct Coefficients {
  WorkspaceVector<T> weight, shift, positive_weight;

  // `gradient`: of the loss of each anchor.
  Coefficients(const SortedRows<T>& rows, const RunningSums<T>& sums, double temperature, T gradient)
      : weight(per_row(rows, T(0))),
        shift(per_row(rows, std::numeric_limits<T>::infinity())),
        positive_weight(per_row(rows, T(0))) {
    const T of_positive = static_cast<T>(-static_cast<double>(gradient) / temperature);
    for (int64_t i = 0; i < rows.count(); ++i) {
      if (sums.positive_count[i] == 0) continue;
      const LogSumExpCoefficients<T> of_anchor =
          logsumexp_coefficients(gradient, sums.shift[i], static_cast<T>(sums.total(i)), temperature);
      weight[i] = of_anchor.weight;
      shift[i] = of_anchor.shift;
      positive_weight[i] = positive_coefficient(of_positive, sums.positive_count[i]);
    }
  }

  LogSumExpAnchors<T> view() const {
    return {.weight = weight.data(), .shift = shift.data(), .positive_weight = positive_weight.data()};
  }
};

}  // namespace

template <class T>
bool supcon_loss(const SupConRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs, int64_t depth,
                 const ThreadPool& pool, const SupConOut<T>& out, int64_t max_kept_bytes) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (!operands.finite()) return false;
  *out.loss = T(0);
  if (operands.empty()) {
    fill_zeros(out.grad_x, anchors.count, depth);
    if (refs) fill_zeros(out.grad_refs, refs->count, depth);
    return true;
  }
  const PairwiseParams<T>& params = operands.params();
  const SortedRows<T>& rows = operands.rows();
  const TileKernels<T>& tile_kernel = kernels<TileKernels<T>>();
  const LogSumExpKernels<T>& kernel = kernels<LogSumExpKernels<T>>();
  const bool has_gradient = out.grad_x || out.grad_refs;
  const KeptScores<T> kept = has_gradient ? KeptScores<T>(operands, max_kept_bytes) : KeptScores<T>();
  const auto all_blocks = [](const Block&) { return true; };

  RunningSums<T> sums(rows, true);
  LogSumExpUpdate<T> update{};
  update.log2e_over_temperature = static_cast<T>(kLog2E / rule.temperature);
  update.logit = pair_logit<T>(LogSumExpRule{});
  update.rows = sums.view();
  update.rows.offset = nullptr;
  update.row_positives = sums.positives();
  if (params.symmetric) {
    update.columns = update.rows;
    update.column_positives = update.row_positives;
  }
  for_each_filled_block(
      operands, PairKind::kAny, 1, pool, all_blocks,
      [&](const Block& block, T* buffer) {
        T* scores = kept.any() ? kept.at(block) : buffer;
        tile_kernel.fill_block(params, PairKind::kAny, block, scores);
        if (!kept.any() || !params.euclidean) return scores;
        KeptScores<T>::copy(block, scores, buffer);  // the kernel overwrites distances
        return buffer;
      },
      [&](int64_t, const Block& block, T* scores) { kernel.logsumexp_update(params, block, update, scores); });

  double total = 0;
  int64_t count = 0;
  for (int64_t i = 0; i < rows.count(); ++i) {
    if (sums.positive_count[i] == 0) continue;
    const double positive = sums.positive_sum[i] / static_cast<double>(sums.positive_count[i]);
    total += (static_cast<double>(sums.shift[i]) - positive) / rule.temperature + std::log(sums.total(i));
    ++count;
  }
  const double divisor = rule.is_mean ? static_cast<double>(std::max<int64_t>(count, 1)) : 1;
  *out.loss = static_cast<T>(total / divisor);
  if (!has_gradient) return true;

  const Coefficients<T> coefficients(rows, sums, rule.temperature, static_cast<T>(1 / divisor));
  LogSumExpWeights<T> weights{};
  weights.log2e_over_temperature = update.log2e_over_temperature;
  weights.positives = true;
  weights.logit = update.logit;
  weights.rows = coefficients.view();
  if (params.symmetric) weights.columns = weights.rows;
  BlockGradient<T> gradient(operands, {.rows = out.grad_x != nullptr, .columns = out.grad_refs != nullptr}, pool);
  for_each_filled_block(
      operands, PairKind::kAny, 3, pool, all_blocks,
      [&](const Block& block, T* buffer) {
        if (kept.any()) return kept.at(block);
        tile_kernel.fill_block(params, PairKind::kAny, block, buffer);
        return buffer;
      },
      [&](int64_t, const Block& block, T* scores) {
        kernel.logsumexp_weights(params, block, weights, scores);
        gradient.add(block, scores);
      });
  gradient.finish(T(1), out.grad_x, out.grad_refs);
  return true;
}

template decltype(supcon_loss<float>) supcon_loss<float>;
template decltype(supcon_loss<double>) supcon_loss<double>;

}  // namespace hardmine::cpu
