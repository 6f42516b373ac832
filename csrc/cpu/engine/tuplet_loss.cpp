// Forward takes up to three passes: selection of each anchor's positive, and of its hardest negative unless one shift
// suffices for all anchors; sums of exponentials over other-class pairs; with all positives, sums of softplus over
// same-class pairs. Backward takes one pass: it recomputes the similarities, turns them into weights, and adds up the
// gradient. If forward and backward are one call, the similarities of small batches are kept in between.

#include "cpu/engine/tuplet_loss.h"

#include <cmath>
#include <vector>

#include "core/candidate_words.h"
#include "cpu/engine/block_gradient.h"
#include "cpu/engine/block_pass.h"
#include "cpu/engine/kept_scores.h"
#include "cpu/engine/selection_pass.h"
#include "cpu/simd/tuplet_block_table.h"

namespace hardmine::cpu {
namespace {

// An array with one element per sorted row, padded as the kernels read it.
template <class T>
WorkspaceVector<T> per_row(const PairwiseOperands<T>& operands, T fill) {
  return WorkspaceVector<T>(round_up(operands.rows().count(), kBlockStep), fill);
}

template <class T>
void fill_without_candidates(int64_t count, const TupletOut<T>& out) {
  std::fill_n(out.loss, count, T(0));
  std::fill_n(out.logsumexp, count, -std::numeric_limits<T>::infinity());
  std::fill_n(out.shift, count, T(0));
  std::fill_n(out.sum, count, T(0));
  std::fill_n(out.slope, count, T(0));
  std::fill_n(out.positive_similarity, count, T(0));
  std::fill_n(out.positive_index, count, int64_t{-1});
  std::fill_n(out.positive_count, count, int64_t{0});
}

// best(row) is the selected positive of a sorted row.
template <class T, class Best>
void write_positives(const TupletRule& rule, const SortedRows<T>& rows, const Best& best, const TupletOut<T>& out) {
  const bool least_similar = prefers_least_similar(tuplet_selection(rule).positive);
  for (int64_t i = 0; i < rows.count(); ++i) {
    const KeyedIndex<T> positive = best(i);
    if (!is_candidate(positive.index)) continue;
    const Index anchor = rows.permutation()[i];
    out.positive_index[anchor] = positive.index;
    out.positive_similarity[anchor] =
        similarity_from_key(rule.similarity, least_similar ? -positive.key : positive.key);
  }
}

// best(row) is the hardest negative of a sorted row: no negative of the row exceeds it.
template <class T, class Best>
void read_shifts(const TupletRule& rule, const SortedRows<T>& rows, const Best& best, WorkspaceVector<T>& shift) {
  for (int64_t i = 0; i < rows.count(); ++i) {
    const KeyedIndex<T> negative = best(i);
    if (is_candidate(negative.index)) shift[i] = unclamped_similarity(rule.similarity, negative.key);
  }
}

// Fills a block of `kept` with all pairs. Returns its negatives: there, or in `buffer` if some pair is none.
template <class T>
const T* fill_negatives(const PairwiseOperands<T>& operands, const KeptScores<T>& kept, const Block& block, T* buffer) {
  T* scores = kept.at(block);
  kernels<TileKernels<T>>().fill_block(operands.params(), PairKind::kAny, block, scores);
  const int64_t *row_label = operands.rows().label().data(), *column_label = operands.columns().label().data();
  const int64_t *first = column_label + block.column_begin, *last = column_label + block.column_end;
  if (row_label[block.row_end - 1] < *first || last[-1] < row_label[block.row_begin]) return scores;
  KeptScores<T>::copy(block, scores, buffer);
  for (int64_t i = 0; i < block.rows(); ++i) {
    const auto [begin, end] = std::equal_range(first, last, row_label[block.row_begin + i]);
    std::fill(buffer + i * kMaxBlockColumns + (begin - first), buffer + i * kMaxBlockColumns + (end - first),
              std::numeric_limits<T>::quiet_NaN());
  }
  return buffer;
}

// Per sorted row, the sum of exp((s - shift) / temperature) over the negatives among the pairs of a part. Fills `kept`,
// unless null, with the scores of all pairs.
template <class T>
WorkspaceVector<double> exponential_sums(const TupletRule& rule, const PairwiseOperands<T>& operands,
                                         const WorkspaceVector<T>& shift, const ThreadPool& pool, const PassPart& part,
                                         const KeptScores<T>* kept = nullptr) {
  const TupletKernels<T>& kernel = kernels<TupletKernels<T>>();
  const PairwiseParams<T>& params = operands.params();
  ExponentialSums<T> exponentials{};
  exponentials.log2e_over_temperature = static_cast<T>(kLog2E / rule.temperature);
  exponentials.shift = T(1);
  if (!one_shift_suffices(rule)) {
    exponentials.row_shift = shift.data();
    exponentials.column_shift = shift.data();  // read if the pass is symmetric
  }
  WorkspaceVector<double> sum(operands.rows().count(), 0.0);
  exponentials.row_sum = sum.data();
  exponentials.column_sum = params.symmetric ? sum.data() : nullptr;
  const auto add = [&](int64_t, const Block& block, const T* scores) {
    kernel.exponential_sums(params, block, scores, exponentials);
  };
  if (kept) {
    for_each_filled_block(
        operands, PairKind::kAny, 1, pool, [](const Block&) { return true; },
        [&](const Block& block, T* buffer) { return fill_negatives(operands, *kept, block, buffer); }, add, part);
  } else {
    for_each_block(operands, PairKind::kOtherClass, 1, pool, add, part);
  }
  return sum;
}

// From shifts, sums and positives to the outputs. With all positives, a pass over same-class pairs.
template <class T>
void finish_forward(const TupletRule& rule, const PairwiseOperands<T>& operands, const WorkspaceVector<T>& shift,
                    const WorkspaceVector<double>& sum, const ThreadPool& pool, const TupletOut<T>& out) {
  const SortedRows<T>& rows = operands.rows();
  const PairwiseParams<T>& params = operands.params();
  WorkspaceVector<T> log_sum = per_row(operands, -std::numeric_limits<T>::infinity());
  for (int64_t i = 0; i < rows.count(); ++i) {
    const Index anchor = rows.permutation()[i];
    log_sum[i] = static_cast<T>(log_of_sum(sum[i]));
    out.shift[anchor] = shift[i];
    out.sum[anchor] = static_cast<T>(sum[i]);
    out.logsumexp[anchor] = static_cast<T>(static_cast<double>(shift[i]) / rule.temperature + log_of_sum(sum[i]));
  }

  if (out.block.only_logsumexp) return;
  if (rule.positive != TupletPositive::kAll) {
    for (int64_t i = 0; i < rows.count(); ++i) {
      if (!is_valid_tuplet(out.positive_index[i] >= 0, out.sum[i])) continue;
      const TupletTerm term =
          tuplet_term(out.shift[i], log_of_sum(out.sum[i]), out.positive_similarity[i], rule.temperature);
      out.loss[i] = static_cast<T>(term.value);
      out.slope[i] = static_cast<T>(term.slope);
      out.positive_count[i] = 1;
    }
    return;
  }
  const TupletKernels<T>& kernel = kernels<TupletKernels<T>>();
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
}

// The merged words [words][selections][count] of positives and hardest negatives.
template <class T>
struct MergedWords {
  const int64_t* words;
  int64_t selections, count;

  auto reader(int64_t selection, const SortedRows<T>& rows) const {
    return [this, selection, &rows](int64_t i) {
      return read_candidate<T>(words + selection * count + rows.permutation()[i], selections * count);
    };
  }
};

// From operands that are not empty. Fills `kept`, unless null, with the scores of all pairs.
template <class T>
void forward_of(const TupletRule& rule, const PairwiseOperands<T>& operands, const KeptScores<T>* kept,
                const ThreadPool& pool, const TupletOut<T>& out) {
  const SortedRows<T>& rows = operands.rows();
  const bool all = rule.positive == TupletPositive::kAll, one_shift = one_shift_suffices(rule);
  const SelectionRule selection = tuplet_selection(rule);
  std::vector<SelectionSpec<T>> specs;
  if (!all) specs.push_back(positive_spec<T>(selection));
  const bool sums_negatives = !out.block.sum;
  if (!one_shift && sums_negatives) specs.push_back(negative_spec<T>(false));
  std::vector<SelectionResult<T>> results;
  if (!specs.empty()) results = run_pass(rows, operands.columns(), operands.params(), specs, pool);
  const auto of_row = [&rows](const SelectionResult<T>& result) {
    return [&](int64_t i) { return KeyedIndex<T>{result.key[i], result.index[i]}; };
  };
  if (!all) write_positives<T>(rule, rows, of_row(results[0]), out);
  WorkspaceVector<T> shift = per_row(operands, T(1));
  WorkspaceVector<double> sum;
  if (sums_negatives) {
    if (!one_shift) read_shifts<T>(rule, rows, of_row(results.back()), shift);
    sum = exponential_sums(rule, operands, shift, pool, {}, kept);
  } else {
    for (int64_t i = 0; i < rows.count(); ++i) {
      shift[i] = out.block.shift[rows.permutation()[i]];
      sum.push_back(static_cast<double>(out.block.sum[rows.permutation()[i]]));
    }
  }
  finish_forward(rule, operands, shift, sum, pool, out);
}

// From operands that are finite and not empty. `kept`: the scores of all pairs, which are overwritten; null: they are
// computed.
template <class T>
void backward_of(const TupletRule& rule, const PairwiseOperands<T>& operands, const TupletSaved<T>& saved,
                 const PassPart& part, const KeptScores<T>* kept, const ThreadPool& pool, T* grad_x, T* grad_refs) {
  const TupletKernels<T>& kernel = kernels<TupletKernels<T>>();
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
  for_each_filled_block(
      operands, PairKind::kAny, 3, pool, [](const Block&) { return true; },
      [&](const Block& block, T* buffer) {
        if (kept) return kept->at(block);
        kernels<TileKernels<T>>().fill_block(params, PairKind::kAny, block, buffer);
        return buffer;
      },
      [&](int64_t, const Block& block, T* scores) {
        kernel.tuplet_weights(params, block, weights, scores);
        gradient.add(block, scores);
      },
      part);
  gradient.finish(T(1), grad_x, grad_refs);
}

// Writes the gradients of a loss without pairs.
template <class T>
void fill_zero_gradients(const PairwiseOperands<T>& operands, T* grad_x, T* grad_refs) {
  if (grad_x) std::fill_n(grad_x, operands.anchors().count * operands.depth(), T(0));
  if (grad_refs) std::fill_n(grad_refs, operands.refs().count * operands.depth(), T(0));
}

}  // namespace

template <class T>
bool tuplet_forward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                    int64_t depth, const ThreadPool& pool, const TupletOut<T>& out) {
  fill_without_candidates(anchors.count, out);
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (!operands.empty()) forward_of<T>(rule, operands, nullptr, pool, out);
  return operands.finite();
}

template <class T>
void tuplet_part(const TupletRule& rule, const LabeledMatrix<T>& anchors, int64_t depth, const int64_t* words,
                 const PassPart& part, const ThreadPool& pool, double* sum) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, nullptr, depth, pool);
  if (operands.empty()) return;
  const SortedRows<T>& rows = operands.rows();
  const MergedWords<T> merged{words, tuplet_selections(rule), anchors.count};
  WorkspaceVector<T> shift = per_row(operands, T(1));
  if (!one_shift_suffices(rule)) read_shifts<T>(rule, rows, merged.reader(1, rows), shift);
  const WorkspaceVector<double> sums = exponential_sums(rule, operands, shift, pool, part);
  for (int64_t i = 0; i < rows.count(); ++i) sum[rows.permutation()[i]] = sums[i];
}

template <class T>
bool tuplet_of_parts(const TupletRule& rule, const LabeledMatrix<T>& anchors, int64_t depth, const int64_t* words,
                     const double* sum, const ThreadPool& pool, const TupletOut<T>& out) {
  fill_without_candidates(anchors.count, out);
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, nullptr, depth, pool);
  if (operands.empty()) return operands.finite();
  const SortedRows<T>& rows = operands.rows();
  const MergedWords<T> merged{words, tuplet_selections(rule), anchors.count};
  if (rule.positive != TupletPositive::kAll) write_positives<T>(rule, rows, merged.reader(0, rows), out);
  WorkspaceVector<T> shift = per_row(operands, T(1));
  if (!one_shift_suffices(rule)) read_shifts<T>(rule, rows, merged.reader(1, rows), shift);
  WorkspaceVector<double> sums(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i) sums[i] = sum[rows.permutation()[i]];
  finish_forward(rule, operands, shift, sums, pool, out);
  return operands.finite();
}

template <class T>
bool tuplet_backward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const TupletSaved<T>& saved, const PassPart& part, const ThreadPool& pool,
                     T* grad_x, T* grad_refs) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (!operands.finite()) return false;
  if (operands.empty()) {
    fill_zero_gradients(operands, grad_x, grad_refs);
  } else {
    backward_of<T>(rule, operands, saved, part, nullptr, pool, grad_x, grad_refs);
  }
  return true;
}

template <class T>
bool tuplet_with_gradients(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                           int64_t depth, const ThreadPool& pool, const TupletOut<T>& out, T* grad_x, T* grad_refs,
                           int64_t max_kept_bytes) {
  fill_without_candidates(anchors.count, out);
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (!operands.finite()) return false;
  if (operands.empty()) {
    fill_zero_gradients(operands, grad_x, grad_refs);
    return true;
  }
  const bool has_gradient = grad_x || grad_refs;
  const KeptScores<T> scores = has_gradient ? KeptScores<T>(operands, max_kept_bytes) : KeptScores<T>();
  const KeptScores<T>* kept = scores.any() ? &scores : nullptr;
  forward_of(rule, operands, kept, pool, out);
  if (!has_gradient) return true;
  const T one = T(1);
  const std::vector<T> grad_loss = tuplet_gradients(rule.reduction, &one, out.positive_count, anchors.count);
  const TupletSaved<T> saved{.grad_loss = grad_loss.data(),
                             .shift = out.shift,
                             .sum = out.sum,
                             .slope = out.slope,
                             .positive_index = out.positive_index,
                             .positive_count = out.positive_count};
  backward_of<T>(rule, operands, saved, {}, kept, pool, grad_x, grad_refs);
  return true;
}

template decltype(tuplet_forward<float>) tuplet_forward<float>;
template decltype(tuplet_part<float>) tuplet_part<float>;
template decltype(tuplet_of_parts<float>) tuplet_of_parts<float>;
template decltype(tuplet_backward<float>) tuplet_backward<float>;
template decltype(tuplet_with_gradients<float>) tuplet_with_gradients<float>;
template decltype(tuplet_forward<double>) tuplet_forward<double>;
template decltype(tuplet_part<double>) tuplet_part<double>;
template decltype(tuplet_of_parts<double>) tuplet_of_parts<double>;
template decltype(tuplet_backward<double>) tuplet_backward<double>;
template decltype(tuplet_with_gradients<double>) tuplet_with_gradients<double>;

}  // namespace hardmine::cpu
