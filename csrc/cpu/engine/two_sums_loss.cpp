// One pass adds up exponentials, a second one gradients. The similarities of small batches are kept in between. A pair
// serves both its rows if both are anchors.

#include "cpu/engine/two_sums_loss.h"

#include "core/losses/logsumexp.h"
#include "cpu/engine/block_gradient.h"
#include "cpu/engine/block_pass.h"
#include "cpu/engine/running_logsumexp.h"

namespace hardmine::cpu {
namespace {

// Columns [begin, end) of a block.
struct Run {
  int64_t begin, end;
};

// The columns of a block that have the label of a row.
template <class T>
Run same_class(const PairwiseParams<T>& params, const Block& block, int64_t row) {
  const int64_t* first = params.columns.label + block.column_begin;
  const auto [begin, end] = std::equal_range(first, first + block.columns(), params.rows.label[row]);
  return {begin - first, end - first};
}

template <class T>
bool has_same_class(const PairwiseParams<T>& params, const Block& block) {
  const int64_t *row = params.rows.label, *column = params.columns.label;
  return row[block.row_begin] <= column[block.column_end - 1] && column[block.column_begin] <= row[block.row_end - 1];
}

// The scores of the blocks of two passes. Those of a kind of pairs are NaN for the other pairs, kept or not.
template <class T>
class BlockScores {
 public:
  BlockScores(const PairwiseOperands<T>& operands, const KeptScores<T>& kept)
      : params_(operands.params()), kernel_(kernels<TileKernels<T>>()), kept_(kept) {}

  // Computes a block for both passes, if it is kept.
  void keep(const Block& block) const {
    if (kept_.any()) kernel_.fill_block(params_, PairKind::kAny, block, kept_.at(block));
  }
  // The scores of a kind, which the caller may overwrite: in the buffer, or, if all pairs are of the kind and no later
  // call needs them (`is_last`), where they are kept.
  T* of_kind(PairKind kind, const Block& block, bool is_last, T* buffer) const {
    if (!kept_.any()) {
      kernel_.fill_block(params_, kind, block, buffer);
      return buffer;
    }
    T* scores = kept_.at(block);
    const bool mixed = has_same_class(params_, block);
    if (!mixed && is_last) return scores;
    KeptScores<T>::copy(block, scores, buffer);
    if (mixed) mark_others(kind, block, buffer);
    return buffer;
  }

 private:
  void mark_others(PairKind kind, const Block& block, T* scores) const {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (int64_t i = 0; i < block.rows(); ++i) {
      T* row_scores = scores + i * kMaxBlockColumns;
      const Run run = same_class(params_, block, block.row_begin + i);
      if (kind == PairKind::kOtherClass) {
        std::fill(row_scores + run.begin, row_scores + run.end, nan);
      } else {
        std::fill(row_scores, row_scores + run.begin, nan);
        std::fill(row_scores + run.end, row_scores + block.columns(), nan);
      }
    }
  }

  const PairwiseParams<T>& params_;
  const TileKernels<T>& kernel_;
  const KeptScores<T>& kept_;
};

// A buffer per worker, allocated when it is first used.
template <class T>
class WorkerBuffers {
 public:
  explicit WorkerBuffers(const ThreadPool& pool) : buffers_(pool.count()) {}
  T* of(int64_t worker) {
    Buffer<T>& buffer = buffers_[worker];
    if (!buffer.get()) buffer = Buffer<T>(kMaxBlockRows * kMaxBlockColumns);
    return buffer.get();
  }

 private:
  std::vector<Buffer<T>> buffers_;
};

// One of the two sums: the running sums of the first pass, and the coefficients of the second.
template <class T>
struct Sum {
  double scale;
  PairLogit<T> logit;
  RunningSums<T> running;
  WorkspaceVector<T> weight, shift;
  LogSumExpUpdate<T> update{};
  LogSumExpWeights<T> weights{};

  Sum(const SortedRows<T>& rows, bool symmetric, double scale, const PairLogit<T>& logit)
      : scale(scale),
        logit(logit),
        running(rows, false),
        weight(per_row(rows, T(0))),
        shift(per_row(rows, std::numeric_limits<T>::infinity())) {
    update.log2e_over_temperature = weights.log2e_over_temperature = static_cast<T>(kLog2E * scale);
    update.logit = weights.logit = logit;
    update.rows = running.view();
    update.rows.offset = nullptr;
    if (symmetric) update.columns = update.rows;
    weights.rows = {.weight = weight.data(), .shift = shift.data(), .positive_weight = nullptr};
    if (symmetric) weights.columns = weights.rows;
  }
  Sum(const Sum&) = delete;
  Sum& operator=(const Sum&) = delete;

  ScaledSum of(int64_t row) const { return {running.shift[row], running.has_pair(row) ? running.total(row) : 0}; }
  void set_coefficients(int64_t row, double gradient) {
    const ScaledSum sum = of(row);
    const LogSumExpCoefficients<T> found =
        logsumexp_coefficients(static_cast<T>(gradient), running.shift[row], static_cast<T>(sum.sum), 1 / scale);
    weight[row] = found.weight;
    shift[row] = found.shift;
  }
};

template <class T>
void fill_zeros(T* gradient, int64_t count, int64_t depth) {
  if (gradient) std::fill_n(gradient, count * depth, T(0));
}

// Adds the weights of the positives of a block to those of its negatives.
template <class T>
void add_positives(const PairwiseParams<T>& params, const Block& block, const T* positives, T* weights) {
  for (int64_t i = 0; i < block.rows(); ++i) {
    const Run run = same_class(params, block, block.row_begin + i);
    const int64_t row = i * kMaxBlockColumns;
    for (int64_t k = run.begin; k < run.end; ++k) weights[row + k] += positives[row + k];
  }
}

}  // namespace

template <class T>
bool two_sums_loss(const TwoSumsRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                   int64_t depth, const ThreadPool& pool, const TwoSumsOut<T>& out, int64_t max_kept_bytes) {
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
  const LogSumExpKernels<T>& kernel = kernels<LogSumExpKernels<T>>();
  const bool has_gradient = out.grad_x || out.grad_refs;
  const KeptScores<T> kept = has_gradient ? KeptScores<T>(operands, max_kept_bytes) : KeptScores<T>();
  const BlockScores<T> scores(operands, kept);
  WorkerBuffers<T> second(pool);
  Sum<T> positives(rows, params.symmetric, rule.positive_scale, rule.positive_logit<T>());
  Sum<T> negatives(rows, params.symmetric, rule.negative_scale, rule.negative_logit<T>());
  const auto all_blocks = [](const Block&) { return true; };
  const auto buffer_alone = [](const Block&, T* buffer) { return buffer; };

  for_each_filled_block(operands, PairKind::kAny, 1, pool, all_blocks, buffer_alone,
                        [&](int64_t, const Block& block, T* buffer) {
                          scores.keep(block);
                          kernel.logsumexp_update(params, block, negatives.update,
                                                  scores.of_kind(PairKind::kOtherClass, block, false, buffer));
                          if (!has_same_class(params, block)) return;
                          kernel.logsumexp_update(params, block, positives.update,
                                                  scores.of_kind(PairKind::kSameClass, block, false, buffer));
                        });

  double total = 0;
  int64_t count = 0;
  std::vector<TwoSumsTerm> terms(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i) {
    terms[i] = two_sums_term(rule, positives.of(i), negatives.of(i));
    total += terms[i].loss;
    count += terms[i].counts;
  }
  const double divisor = rule.is_mean ? static_cast<double>(std::max<int64_t>(count, 1)) : 1;
  *out.loss = static_cast<T>(total / divisor);
  if (!has_gradient) return true;

  for (int64_t i = 0; i < rows.count(); ++i) {
    positives.set_coefficients(i, terms[i].by_positives / divisor);
    negatives.set_coefficients(i, terms[i].by_negatives / divisor);
  }
  BlockGradient<T> gradient(operands, {.rows = out.grad_x != nullptr, .columns = out.grad_refs != nullptr}, pool);
  for_each_filled_block(operands, PairKind::kAny, 3, pool, all_blocks, buffer_alone,
                        [&](int64_t worker, const Block& block, T* buffer) {
                          T* weights = scores.of_kind(PairKind::kOtherClass, block, true, buffer);
                          kernel.logsumexp_weights(params, block, negatives.weights, weights);
                          if (has_same_class(params, block)) {
                            T* of_positives = scores.of_kind(PairKind::kSameClass, block, true, second.of(worker));
                            kernel.logsumexp_weights(params, block, positives.weights, of_positives);
                            add_positives(params, block, of_positives, weights);
                          }
                          gradient.add(block, weights);
                        });
  gradient.finish(T(1), out.grad_x, out.grad_refs);
  return true;
}

template decltype(two_sums_loss<float>) two_sums_loss<float>;
template decltype(two_sums_loss<double>) two_sums_loss<double>;

}  // namespace hardmine::cpu
