// A group of queries meets all keys before the next group: its similarities are computed once, stay in memory until
// the group's log-sum-exps are known, and then become the weights of the gradients. If keys are classified as well,
// their log-sum-exps need all queries, so a pass over all pairs comes first. It keeps the similarities of small
// batches.

#include "cpu/engine/info_nce_loss.h"

#include <numeric>
#include <optional>
#include <vector>

#include "cpu/engine/block_pass.h"
#include "cpu/engine/depth_panels.h"
#include "cpu/engine/kept_scores.h"
#include "cpu/engine/running_logsumexp.h"

namespace hardmine::cpu {
namespace {

constexpr int64_t kBlockSize = kMaxBlockRows * kMaxBlockColumns;

// The terms of the rows of one side, and what their derivatives need.
template <class T>
struct Terms {
  RunningSums<T> sums;
  WorkspaceVector<T> weight, shift;
  WorkspaceVector<double> value, grad_temperature;

  Terms(const SortedRows<T>& rows, bool positives)
      : sums(rows, positives),
        weight(per_row(rows, T(0))),
        shift(per_row(rows, std::numeric_limits<T>::infinity())),
        value(rows.count(), 0.0),
        grad_temperature(rows.count(), 0.0) {}

  LogSumExpAnchors<T> view(const T* positive_weight) const {
    return {.weight = weight.data(), .shift = shift.data(), .positive_weight = positive_weight};
  }
  // Of a row whose sums are complete. Returns the weight of its own pair.
  double finish(int64_t row, double positive_similarity, double temperature, double loss_weight) {
    if (!sums.has_pair(row)) return 0;
    const InfoNceTerm term = info_nce_term(static_cast<double>(sums.shift[row]), sums.total(row), sums.offset[row],
                                           positive_similarity, temperature, loss_weight);
    value[row] = term.value;
    weight[row] = static_cast<T>(term.negative_weight);
    shift[row] = sums.shift[row];
    grad_temperature[row] = term.grad_temperature;
    return term.positive_weight;
  }
};

double sum_of(const WorkspaceVector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// The workspace of a thread.
template <class T>
struct GroupBuffers {
  Buffer<T> scores;           // of all blocks of a group, or of one
  Buffer<T> copy;             // of a block
  Buffer<T> value, gradient;  // of the group's queries, in panels of depth
};

template <class T>
class InfoNcePass {
 public:
  InfoNcePass(const InfoNceRule& rule, double temperature, const PairwiseOperands<T>& operands, const ThreadPool& pool,
              const InfoNceOut<T>& out, int64_t max_kept_bytes)
      : rule_(rule),
        temperature_(temperature),
        operands_(operands),
        params_(operands.params()),
        pool_(pool),
        out_(out),
        kernel_(kernels<LogSumExpKernels<T>>()),
        gradient_kernel_(kernels<GradientKernels<T>>()),
        panel_(kernels<TileKernels<T>>().panel_columns),
        groups_(ceil_div(operands.rows().count(), kMaxBlockRows)),
        column_blocks_(ceil_div(operands.columns().count(), kMaxBlockColumns)),
        max_kept_bytes_(max_kept_bytes),
        of_queries_(operands.rows(), true),
        positive_weight_(per_row(operands.rows(), T(0))),
        done_(std::make_unique<std::atomic<int64_t>[]>(column_blocks_)) {
    const T log2e_over_temperature = static_cast<T>(kLog2E / temperature);
    update_.log2e_over_temperature = weights_.log2e_over_temperature = log2e_over_temperature;
    update_.excludes_positives = weights_.excludes_positives = weights_.positives = true;
    update_.rows = of_queries_.sums.view();
    update_.row_positives = of_queries_.sums.positives();
    weights_.rows = of_queries_.view(positive_weight_.data());
    if (rule.symmetric) {
      of_keys_.emplace(operands.columns(), false);
      update_.columns = of_keys_->sums.view();
      weights_.columns = of_keys_->view(nullptr);
    }
    if (!out.grad_temperature) update_.rows.offset = update_.columns.offset = nullptr;
    key_padded_ = round_up(operands.columns().count(), kBlockStep);
    const bool euclidean = params_.euclidean;
    if (out.grad_query || euclidean)
      key_value_ =
          packed_panels(operands.columns(), operands.refs().x, operands.column_norm(), key_padded_, depth(), pool);
    if (out.grad_key) key_gradient_ = zero_panels<T>(key_padded_, depth(), pool);
  }

  void run() {
    if (rule_.symmetric) add_all_to_sums();
    if (!rule_.symmetric || has_gradient()) {
      const std::vector<GroupBuffers<T>> buffers = buffers_of(threads());
      parallel_tasks(pool_, static_cast<int64_t>(buffers.size()), groups_,
                     [&](int64_t worker, int64_t group) { run_group(group, buffers[worker]); });
    }
    write();
  }

 private:
  int64_t depth() const { return operands_.depth(); }
  bool has_gradient() const { return out_.grad_query || out_.grad_key; }

  int64_t threads() const {
    const double pairs = static_cast<double>(operands_.rows().count()) * static_cast<double>(params_.columns.count);
    return thread_count_for(pool_, (has_gradient() ? 3 : 1) * pairs * static_cast<double>(depth()), kMultiplyAddGrain);
  }

  void add_all_to_sums() {
    if (has_gradient()) kept_ = KeptScores<T>(operands_, max_kept_bytes_);
    for_each_block(operands_, PairKind::kAny, 1, pool_, [&](int64_t, const Block& block, T* scores) {
      if (kept_.any()) KeptScores<T>::copy(block, scores, kept_.at(block));
      kernel_.logsumexp_update(params_, block, update_, scores);
    });
    finish_terms(0, operands_.rows().count());
  }

  std::vector<GroupBuffers<T>> buffers_of(int64_t threads) {
    const int64_t group_size = column_blocks_ * kBlockSize;
    keeps_group_ =
        has_gradient() && !rule_.symmetric && threads * group_size * static_cast<int64_t>(sizeof(T)) <= max_kept_bytes_;
    std::vector<GroupBuffers<T>> buffers(threads);
    for (GroupBuffers<T>& b : buffers) {
      if (!kept_.any()) b.scores = Buffer<T>(keeps_group_ ? group_size : kBlockSize);
      if (keeps_group_ && params_.euclidean) b.copy = Buffer<T>(kBlockSize);
      if (!has_gradient()) continue;
      // The kernel also reads the rows that pad the last micro-tile, so they must be finite.
      b.value = zero_panels<T>(kMaxBlockRows, depth(), pool_);
      b.gradient = Buffer<T>(panel_elements<T>(kMaxBlockRows, depth()));
    }
    return buffers;
  }

  Block block_at(int64_t group, int64_t column_block) const {
    const int64_t row = group * kMaxBlockRows, column = column_block * kMaxBlockColumns;
    return {row, std::min(row + kMaxBlockRows, operands_.rows().count()), column,
            std::min(column + kMaxBlockColumns, operands_.columns().count())};
  }
  T* scores_of(int64_t group, int64_t column_block, const GroupBuffers<T>& buffers) const {
    if (kept_.any()) return kept_.at(block_at(group, column_block));
    return buffers.scores.get() + (keeps_group_ ? column_block * kBlockSize : 0);
  }
  void fill(const Block& block, T* scores) const {
    kernels<TileKernels<T>>().fill_block(params_, PairKind::kAny, block, scores);
  }

  void run_group(int64_t group, const GroupBuffers<T>& buffers) {
    if (!rule_.symmetric) add_to_sums(group, buffers);
    if (has_gradient()) add_gradients(group, buffers);
  }

  void add_to_sums(int64_t group, const GroupBuffers<T>& buffers) {
    for (int64_t b = 0; b < column_blocks_; ++b) {
      if (pool_.cancelled()) return;
      const Block block = block_at(group, b);
      T* scores = scores_of(group, b, buffers);
      fill(block, scores);
      // The kernel overwrites distances, and the scores of positives.
      if (keeps_group_ && params_.euclidean) {
        KeptScores<T>::copy(block, scores, buffers.copy.get());
        scores = buffers.copy.get();
      }
      kernel_.logsumexp_update(params_, block, update_, scores);
      if (keeps_group_ && !params_.euclidean) restore_positives(block, scores);
    }
    const Block rows = block_at(group, 0);
    finish_terms(rows.row_begin, rows.row_end);
  }

  // A query has one positive, at its own number.
  void restore_positives(const Block& block, T* scores) const {
    const int64_t begin = std::max(block.row_begin, block.column_begin);
    for (int64_t i = begin; i < std::min(block.row_end, block.column_end); ++i)
      if (of_queries_.sums.positive_count[i] > 0)  // else it was NaN before
        scores[(i - block.row_begin) * kMaxBlockColumns + i - block.column_begin] =
            static_cast<T>(of_queries_.sums.positive_sum[i]);
  }

  void finish_terms(int64_t begin, int64_t end) {
    const double loss_weight = info_nce_weight(rule_, operands_.rows().count());
    for (int64_t i = begin; i < end; ++i) {
      const double positive = of_queries_.sums.positive_sum[i];
      double weight = of_queries_.finish(i, positive, temperature_, loss_weight);
      if (of_keys_) weight += of_keys_->finish(i, positive, temperature_, loss_weight);
      positive_weight_[i] = static_cast<T>(-weight);
    }
  }

  void add_gradients(int64_t group, const GroupBuffers<T>& buffers) {
    const Block rows = block_at(group, 0);
    const T *x = operands_.anchors().x, *norm = operands_.row_norm();
    gradient_kernel_.pack_depth(x, depth(), operands_.rows().permutation().data() + rows.row_begin, norm, kMaxBlockRows,
                                0, rows.rows(), buffers.value.get());
    std::fill_n(buffers.gradient.get(), panel_elements<T>(kMaxBlockRows, depth()), T(0));
    const T* row_value = params_.euclidean ? buffers.value.get() : nullptr;
    for (int64_t b = 0; b < column_blocks_; ++b) {
      if (pool_.cancelled()) return;
      const Block block = block_at(group, b);
      T* scores = scores_of(group, b, buffers);
      if (!keeps_group_ && !kept_.any()) fill(block, scores);
      kernel_.logsumexp_weights(params_, block, weights_, scores);
      const T* value = key_value_.get() + block.column_begin * panel_;
      if (out_.grad_query)
        gradient_kernel_.gradient_gemm(block, scores, false, depth(), value, key_padded_, row_value,
                                       buffers.gradient.get(), kMaxBlockRows);
      if (!out_.grad_key) continue;
      // Keys add the groups up in their order, whatever thread has them. Groups start in this order.
      while (done_[b].load(std::memory_order_acquire) != group) {
        if (pool_.cancelled()) return;
        std::this_thread::yield();
      }
      gradient_kernel_.gradient_gemm(block, scores, true, depth(), buffers.value.get(), kMaxBlockRows,
                                     params_.euclidean ? value : nullptr,
                                     key_gradient_.get() + block.column_begin * panel_, key_padded_);
      done_[b].store(group + 1, std::memory_order_release);
    }
    if (!out_.grad_query) return;
    for (int64_t r = 0; r < rows.rows(); ++r)
      write_gradient_row(buffers.gradient.get(), kMaxBlockRows, r, x, norm,
                         operands_.rows().permutation()[rows.row_begin + r], depth(), T(1), out_.grad_query);
  }

  void write() const {
    double loss = sum_of(of_queries_.value), grad_temperature = sum_of(of_queries_.grad_temperature);
    if (of_keys_) {
      loss += sum_of(of_keys_->value);
      grad_temperature += sum_of(of_keys_->grad_temperature);
    }
    *out_.loss = static_cast<T>(loss);
    if (out_.grad_temperature) *out_.grad_temperature = grad_temperature;
    if (out_.grad_key)
      write_gradient_rows(key_gradient_.get(), key_padded_, operands_.columns(), operands_.refs().x,
                          operands_.column_norm(), depth(), T(1), pool_, out_.grad_key);
  }

  const InfoNceRule& rule_;
  const double temperature_;
  const PairwiseOperands<T>& operands_;
  const PairwiseParams<T>& params_;
  const ThreadPool& pool_;
  const InfoNceOut<T>& out_;
  const LogSumExpKernels<T>& kernel_;
  const GradientKernels<T>& gradient_kernel_;
  const int64_t panel_, groups_, column_blocks_, max_kept_bytes_;
  Terms<T> of_queries_;
  std::optional<Terms<T>> of_keys_;
  WorkspaceVector<T> positive_weight_;
  std::unique_ptr<std::atomic<int64_t>[]> done_;  // [column_blocks]: groups that the keys of a block have met
  LogSumExpUpdate<T> update_{};
  LogSumExpWeights<T> weights_{};
  int64_t key_padded_ = 0;
  Buffer<T> key_value_, key_gradient_;
  KeptScores<T> kept_;        // of a symmetric loss
  bool keeps_group_ = false;  // the buffers of a thread hold the scores of all blocks of a group
};

}  // namespace

template <class T>
bool info_nce_loss(const InfoNceRule& rule, double temperature, const Matrix<T>& queries, const Matrix<T>& keys,
                   int64_t depth, const ThreadPool& pool, const InfoNceOut<T>& out, int64_t max_kept_bytes) {
  // Query and key of a pair have the same label, and no other row has it.
  WorkspaceVector<int64_t> number(std::max(queries.count, keys.count));
  std::iota(number.begin(), number.end(), int64_t{0});
  const LabeledMatrix<T> rows{queries.x, number.data(), queries.count}, columns{keys.x, number.data(), keys.count};
  const PairwiseOperands<T> operands(measure_of(rule.similarity), rows, &columns, depth, pool);
  if (!operands.finite()) return false;
  if (operands.empty()) {
    *out.loss = T(0);
    if (out.grad_query) std::fill_n(out.grad_query, queries.count * depth, T(0));
    if (out.grad_key) std::fill_n(out.grad_key, keys.count * depth, T(0));
    if (out.grad_temperature) *out.grad_temperature = 0;
    return true;
  }
  InfoNcePass<T>(rule, temperature, operands, pool, out, max_kept_bytes).run();
  return true;
}

template decltype(info_nce_loss<float>) info_nce_loss<float>;
template decltype(info_nce_loss<double>) info_nce_loss<double>;

}  // namespace hardmine::cpu
