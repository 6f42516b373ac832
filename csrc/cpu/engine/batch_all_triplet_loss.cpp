// The similarities of each anchor to its positives are listed first. Then a pass over all pairs of different classes
// compares each pair with the positives of its anchor, or without refs, of both its endpoints. Lists of large classes
// would need memory for all pairs, so anchors are processed in chunks whose lists need O((anchors + refs) depth).
// Usually one chunk holds all anchors.

#include "cpu/engine/batch_all_triplet_loss.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/engine/block_gradient.h"
#include "cpu/engine/block_pass.h"
#include "cpu/simd/batch_all_block_table.h"

namespace hardmine::cpu {
namespace {

// The positives of the anchors at sorted rows [begin, end), and their counts of active triplets; see BatchAllState.
template <class T>
class AnchorLists {
 public:
  AnchorLists(const PairwiseOperands<T>& operands, bool squared, const WorkspaceVector<int64_t>& class_begin,
              const WorkspaceVector<int64_t>& class_end, int64_t begin, int64_t end, const ThreadPool& pool)
      : begin_(begin),
        end_(end),
        first_(class_begin.size(), 0),
        size_(class_begin.size(), 0),
        min_positive_(class_begin.size(), std::numeric_limits<T>::infinity()) {
    int64_t entries = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t size = class_end[i] - class_begin[i];
      const int64_t least = operands.symmetric() ? 2 : 1;                // an anchor is in its own class
      if (size < least || size == operands.columns().count()) continue;  // without a positive or a negative
      first_[i] = entries;
      size_[i] = static_cast<int32_t>(size);
      has_long_ |= size_[i] > kShortList;
      entries += size;
    }
    positive_.assign(entries, std::numeric_limits<T>::infinity());
    active_.assign(entries, 0);
    if (has_long_) {
      rank_.resize(entries);
      ascending_.resize(entries);
      sum_through_.resize(entries);
    }
    fill(operands, squared, class_begin, class_end, pool);
  }

  bool is_anchor(int64_t row) const { return size_[row] > 0; }

  void describe(BatchAllState<T>& state) {
    state.first = first_.data();
    state.size = size_.data();
    state.positive = positive_.data();
    state.min_positive = min_positive_.data();
    state.ascending = ascending_.data();
    state.sum_through = sum_through_.data();
    state.active = active_.data();
  }

  // Converts the counts of long lists to counts per entry, after all negatives. Returns the number of active triplets.
  int64_t finish_counts() {
    int64_t active = 0;
    WorkspaceVector<int32_t> by_rank;
    for (int64_t i = begin_; i < end_; ++i) {
      int32_t* count = active_.data() + first_[i];
      if (size_[i] > kShortList) {
        by_rank.assign(count, count + size_[i]);
        for (int32_t r = size_[i] - 2; r >= 0; --r) by_rank[r] += by_rank[r + 1];
        for (int32_t r = 0; r < size_[i]; ++r) count[rank_[first_[i] + r]] = by_rank[r];
      }
      active = std::accumulate(count, count + size_[i], active);
    }
    return active;
  }

 private:
  void fill(const PairwiseOperands<T>& operands, bool squared, const WorkspaceVector<int64_t>& class_begin,
            const WorkspaceVector<int64_t>& class_end, const ThreadPool& pool) {
    const TileKernels<T>& kernel = kernels<TileKernels<T>>();
    PairwiseParams<T> params = operands.params();
    params.symmetric = false;  // each anchor has its own list
    const int64_t first_block = begin_ / kMaxBlockRows, blocks = ceil_div(end_, kMaxBlockRows) - first_block;
    const double work = static_cast<double>(positive_.size()) * static_cast<double>(operands.depth());
    const int64_t threads = thread_count_for(pool, work, kMultiplyAddGrain / 16);
    std::vector<Buffer<T>> scores;
    for (int64_t t = 0; t < threads; ++t) scores.emplace_back(kMaxBlockRows * kMaxBlockColumns);
    parallel_tasks(pool, threads, blocks, [&](int64_t worker, int64_t task) {
      const int64_t row_begin = (first_block + task) * kMaxBlockRows;
      const int64_t row_end = std::min(row_begin + kMaxBlockRows, operands.rows().count());
      const int64_t column_end = class_end[row_end - 1];
      for (int64_t column = round_down(class_begin[row_begin], kBlockStep); column < column_end && !pool.cancelled();
           column += kMaxBlockColumns) {
        const Block block{row_begin, row_end, column, std::min(column + kMaxBlockColumns, column_end)};
        kernel.fill_block(params, PairKind::kSameClass, block, scores[worker].get());
        for (int64_t i = std::max(row_begin, begin_); i < std::min(row_end, end_); ++i) {
          if (!is_anchor(i)) continue;
          const T* row_scores = scores[worker].get() + (i - row_begin) * kMaxBlockColumns;
          for (int64_t c = std::max(class_begin[i], column); c < std::min(class_end[i], block.column_end); ++c) {
            const T score = row_scores[c - column];
            if ((operands.symmetric() && c == i) || !(score == score)) continue;
            const T v = batch_all_v(params.euclidean, squared, score);
            positive_[first_[i] + c - class_begin[i]] = v;
            min_positive_[i] = std::min(min_positive_[i], v);
          }
        }
      }
      for (int64_t i = std::max(row_begin, begin_); i < std::min(row_end, end_) && !pool.cancelled(); ++i)
        if (size_[i] > kShortList) sort(i);
    });
  }

  void sort(int64_t i) {
    const T* positive = positive_.data() + first_[i];
    int32_t* rank = rank_.data() + first_[i];
    std::iota(rank, rank + size_[i], 0);
    std::stable_sort(rank, rank + size_[i], [&](int32_t a, int32_t b) { return positive[a] < positive[b]; });
    double sum = 0;
    for (int32_t r = 0; r < size_[i]; ++r) {
      ascending_[first_[i] + r] = positive[rank[r]];
      sum += static_cast<double>(positive[rank[r]]);
      sum_through_[first_[i] + r] = sum;
    }
  }

  int64_t begin_, end_;
  bool has_long_ = false;
  WorkspaceVector<int64_t> first_;
  WorkspaceVector<int32_t> size_;
  WorkspaceVector<T> min_positive_;
  WorkspaceVector<T> positive_, ascending_;
  WorkspaceVector<double> sum_through_;
  WorkspaceVector<int32_t> rank_;  // the position in the list of each rank
  WorkspaceVector<int32_t> active_;
};

// The number of triplets without an excluded pair. Without refs, an anchor with excluded columns is one of them.
template <class T>
int64_t count_triplets(const PairwiseOperands<T>& operands, const WorkspaceVector<int64_t>& class_begin,
                       const WorkspaceVector<int64_t>& class_end) {
  const int64_t columns = operands.columns().count();
  int64_t triplets = 0;
  for (int64_t i = 0; i < operands.rows().count(); ++i) {
    const int64_t size = class_end[i] - class_begin[i];
    const int64_t excluded = operands.exclusions().count(i, 0, columns);
    const int64_t excluded_positives = operands.exclusions().count(i, class_begin[i], class_end[i]);
    const int64_t own = operands.symmetric() && excluded == 0 ? 1 : 0;  // the anchor itself
    triplets += (size - excluded_positives - own) * (columns - size - (excluded - excluded_positives));
  }
  return triplets;
}

}  // namespace

template <class T>
BatchAllResult<T> batch_all(const BatchAllRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                            int64_t depth, const MarginTable<T>& table, const ThreadPool& pool, T* grad_x,
                            T* grad_refs) {
  const BatchAllKernels<T>& kernel = kernels<BatchAllKernels<T>>();
  const TileKernels<T>& tile_kernel = kernels<TileKernels<T>>();
  const auto make_operands = [&](bool unit_rows) {
    return std::make_unique<PairwiseOperands<T>>(batch_all_measure(rule, unit_rows), anchors, refs, depth, pool);
  };
  std::unique_ptr<PairwiseOperands<T>> made = make_operands(true);
  if (made->clamped() && !made->params().euclidean) made = make_operands(false);
  const PairwiseOperands<T>& operands = *made;
  BatchAllResult<T> result{.loss = T(0), .active = 0, .total = 0, .finite = operands.finite()};
  if (grad_x) std::fill_n(grad_x, anchors.count * depth, T(0));
  if (grad_refs) std::fill_n(grad_refs, refs->count * depth, T(0));
  if (!result.finite || operands.empty()) return result;
  const SortedRows<T>&rows = operands.rows(), &columns = operands.columns();
  const int64_t count = rows.count(), padded = round_up(count, kBlockStep);

  // Per row, the columns of its class.
  WorkspaceVector<int64_t> class_begin(count), class_end(count);
  for (int64_t i = 0, begin = 0, end = 0; i < count; ++i) {
    while (begin < columns.count() && columns.label()[begin] < rows.label()[i]) ++begin;
    for (end = std::max(begin, end); end < columns.count() && columns.label()[end] == rows.label()[i];) ++end;
    class_begin[i] = begin;
    class_end[i] = end;
  }
  result.total = count_triplets(operands, class_begin, class_end);
  if (result.total == 0) return result;

  BatchAllState<T> state{};
  state.class_begin = class_begin.data();
  state.squared = rule.squared;
  state.exact_half_margin = 0.5 * rule.margin;
  state.half_margin = static_cast<T>(state.exact_half_margin);
  WorkspaceVector<int32_t> table_row, ref_table_row;
  if (table.margin) {
    for (int64_t i = 0; i < count; ++i) table_row.push_back(static_cast<int32_t>(table.row[rows.permutation()[i]]));
    for (int64_t c = 0; refs && c < columns.count(); ++c)
      ref_table_row.push_back(static_cast<int32_t>(table.ref_row[columns.permutation()[c]]));
    state.margin_table = table.margin;
    state.table_row = table_row.data();
    state.column_table_row = refs ? ref_table_row.data() : table_row.data();
    state.table_rows = table.rows;
  }
  WorkspaceVector<double> value(padded, 0.0);
  state.value = value.data();
  std::unique_ptr<BlockGradient<T>> gradient;
  if (grad_x || grad_refs) {
    const NeededGradients needed{.rows = grad_x != nullptr, .columns = grad_refs != nullptr};
    gradient = std::make_unique<BlockGradient<T>>(operands, needed, pool);
    state.need_weights = true;
  }
  std::vector<Buffer<T>> scratch;
  for (int64_t t = 0; t < pool.count(); ++t)
    scratch.emplace_back(operands.symmetric() ? kMaxBlockColumns * kMaxBlockRows : 0);

  // The entries of the lists in a chunk: O(depth) per row, and at least those of a block, so that blocks are not
  // visited many times.
  const int64_t max_entries = (count + (refs ? columns.count() : 0)) * std::max(depth, kMaxBlockColumns);
  for (int64_t begin = 0, end; begin < count; begin = end) {
    int64_t entries = 0;
    for (end = begin; end < count && (end == begin || entries + class_end[end] - class_begin[end] <= max_entries);
         ++end)
      entries += class_end[end] - class_begin[end];
    AnchorLists<T> lists(operands, rule.squared, class_begin, class_end, begin, end, pool);
    lists.describe(state);
    const auto has_anchors = [&](const Block& block) {
      return (block.row_begin < end && block.row_end > begin) ||
             (operands.symmetric() && block.column_begin < end && block.column_end > begin);
    };
    for_each_block(operands, PairKind::kOtherClass, gradient ? 3 : 1, pool, has_anchors,
                   [&](int64_t worker, const Block& block, T* scores) {
                     if (kernel.batch_all_negatives(operands.params(), block, state, scores, scratch[worker].get()))
                       gradient->add(block, scores);
                   });
    result.active += lists.finish_counts();
    if (!gradient) continue;
    for_each_filled_block(
        operands, PairKind::kSameClass, 1, pool, has_anchors,
        [&](const Block& block, T* scores) {
          if (operands.params().euclidean && !rule.squared)
            tile_kernel.fill_block(operands.params(), PairKind::kSameClass, block, scores);
          return scores;
        },
        [&](int64_t, const Block& block, T* scores) {
          kernel.batch_all_positives(operands.params(), block, state, scores);
          gradient->add(block, scores);
        });
  }
  const double loss_weight = batch_all_loss_weight(rule.reduction, result.active, result.total);
  result.loss = static_cast<T>(loss_weight * std::accumulate(value.begin(), value.end(), 0.0));
  if (gradient) gradient->finish(static_cast<T>(loss_weight), grad_x, grad_refs);
  return result;
}

template decltype(batch_all<float>) batch_all<float>;
template decltype(batch_all<double>) batch_all<double>;

}  // namespace hardmine::cpu
