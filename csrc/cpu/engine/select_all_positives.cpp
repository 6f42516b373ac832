// The first pass visits same-class pairs and lists the positives of each row. Hardest and easiest negatives are those
// of the row, whatever the positive. Semi-hard negatives take a pass in which each positive gives its row a range of
// keys.

#include "cpu/engine/select_all_positives.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "cpu/engine/class_keys.h"
#include "cpu/engine/selection_pass.h"
#include "cpu/simd/range_block_table.h"

namespace hardmine::cpu {
namespace {

// A candidate that may be missing.
template <class T>
struct Candidate {
  T key;
  Index index;
};

// The pairs of sorted rows: row r has entries [first[r], first[r + 1]), by ascending index of the positive.
template <class T>
struct RowPairs {
  WorkspaceVector<int64_t> first;
  WorkspaceVector<Index> positive;
  WorkspaceVector<T> positive_key;

  RowPairs(const SelectionRule& rule, const PairwiseOperands<T>& operands, const ThreadPool& pool)
      : first(operands.rows().count() + 1, 0) {
    const SortedRows<T>&rows = operands.rows(), &columns = operands.columns();
    const ClassColumns of_class(rows, columns);
    const WorkspaceVector<T> class_key = class_keys(operands, of_class, pool);
    const T limit = std::min(max_key(rule.similarity, T(rule.duplicate_threshold)), std::numeric_limits<T>::max());
    const auto is_positive = [&](T key) { return key >= -std::numeric_limits<T>::max() && key <= limit; };
    for (int64_t r = 0; r < rows.count(); ++r) {
      const auto begin = class_key.begin() + of_class.first[r];
      first[r + 1] = first[r] + std::count_if(begin, begin + of_class.count(r), is_positive);
    }
    positive.resize(first[rows.count()]);
    positive_key.resize(first[rows.count()]);
    for (int64_t r = 0; r < rows.count(); ++r) {
      int64_t pair = first[r];
      for (int64_t c = 0; c < of_class.count(r); ++c) {
        const T key = class_key[of_class.first[r] + c];
        if (!is_positive(key)) continue;
        positive[pair] = columns.permutation()[of_class.begin[r] + c];
        positive_key[pair++] = key;
      }
    }
  }
  int64_t count(int64_t row) const { return first[row + 1] - first[row]; }
};

// The semi-hard negative of every pair.
template <class T>
WorkspaceVector<Candidate<T>> semihard_negatives(const SelectionRule& rule, const PairwiseOperands<T>& operands,
                                                 const RowPairs<T>& pairs, const ThreadPool& pool) {
  const RangeKernels<T>& kernel = kernels<RangeKernels<T>>();
  const T infinity = std::numeric_limits<T>::infinity();
  const int64_t count = operands.rows().count(), num_pairs = pairs.first[count];
  const auto levels_of = [&](int64_t row) -> Index {
    const int64_t ranges = pairs.count(row);
    return ranges <= kMaxRangeLevels ? static_cast<Index>(ranges) : 1;
  };
  Index max_levels = 1;
  for (int64_t r = 0; r < count; ++r) max_levels = std::max(max_levels, levels_of(r));
  const int64_t stride = round_up(count, kMaxBlockColumns) + kMaxBlockColumns;
  WorkspaceVector<int64_t> pair_of_range(num_pairs);
  WorkspaceVector<T> upper(num_pairs), key(num_pairs), last_upper(stride, -infinity);
  WorkspaceVector<Index> index(num_pairs), levels(stride, 0);
  WorkspaceVector<T> level_upper(max_levels * stride, -infinity), level_key(max_levels * stride, infinity);

  const int64_t threads = thread_count_for(pool, static_cast<double>(num_pairs), kElementGrain);
  parallel_range(pool, threads, count, 1, [&](int64_t row_begin, int64_t row_end) {
    std::vector<std::pair<T, int64_t>> sorted;  // the order of equal keys does not matter: their ranges are equal
    for (int64_t row = row_begin; row < row_end; ++row) {
      const int64_t first = pairs.first[row];
      sorted.clear();
      for (int64_t pair = first; pair < pairs.first[row + 1]; ++pair)
        sorted.push_back({pairs.positive_key[pair], pair});
      std::sort(sorted.begin(), sorted.end());
      levels[row] = levels_of(row);
      for (int64_t l = 0; l < pairs.count(row); ++l) {
        const KeyRange<T> range = semihard_range<T>(rule, sorted[l].first);
        const int64_t r = first + l;
        pair_of_range[r] = sorted[l].second;
        upper[r] = last_upper[row] = range.upper;
        key[r] = range.start_key;
        index[r] = range.start_index;
        if (l >= levels[row]) continue;
        level_upper[l * stride + row] = range.upper;
        level_key[l * stride + row] = range.start_key;
      }
      if (pairs.count(row) > kMaxRangeLevels) level_upper[row] = last_upper[row];
    }
  });

  const RangedNegatives<T> best{.first = pairs.first.data(),
                                .upper = upper.data(),
                                .key = key.data(),
                                .index = index.data(),
                                .levels = levels.data(),
                                .last_upper = last_upper.data(),
                                .level_upper = level_upper.data(),
                                .level_key = level_key.data(),
                                .stride = stride};
  for_each_block(operands, PairKind::kOtherClass, 1.2, pool, [&](int64_t, const Block& block, const T* scores) {
    kernel.select_in_ranges(operands.params(), block, scores, best);
  });
  WorkspaceVector<Candidate<T>> negatives(num_pairs);
  for (int64_t r = 0; r < num_pairs; ++r) negatives[pair_of_range[r]] = {key[r], index[r]};
  return negatives;
}

// The best negatives of all sorted rows. If the least similar one wins, keys are negated.
template <class T>
SelectionResult<T> row_negatives(const PairwiseOperands<T>& operands, bool least_similar, const ThreadPool& pool) {
  return std::move(
      run_pass(operands.rows(), operands.columns(), operands.params(), {negative_spec<T>(least_similar)}, pool)
          .front());
}

// Replaces missing negatives by the hardest or easiest one of the row, in a pass over the rows that miss some.
template <class T>
void fill_in(Fallback fallback, const PairwiseOperands<T>& operands, const RowPairs<T>& pairs, const ThreadPool& pool,
             WorkspaceVector<Candidate<T>>& negatives) {
  const SortedRows<T>& rows = operands.rows();
  WorkspaceVector<int64_t> missing_rows;
  WorkspaceVector<Index> missing;
  for (int64_t r = 0; r < rows.count(); ++r) {
    const auto begin = negatives.begin() + pairs.first[r], end = negatives.begin() + pairs.first[r + 1];
    if (std::all_of(begin, end, [](const Candidate<T>& n) { return is_candidate(n.index); })) continue;
    missing_rows.push_back(r);
    missing.push_back(rows.permutation()[r]);
  }
  if (missing.empty()) return;
  const bool easiest = fallback == Fallback::kEasiest;
  const SortedRows<T> rest(operands.anchors(), operands.depth(), operands.row_norm(), &missing, PackFor::kRows, pool);
  const PairExclusions exclusions(operands.anchors().id, rest, operands.refs().id, operands.columns());
  PairwiseParams<T> params = operands.params();
  params.symmetric = false;
  params.excluded = exclusions.view();
  const SelectionResult<T> found =
      std::move(run_pass(rest, operands.columns(), params, {negative_spec<T>(easiest)}, pool).front());
  for (int64_t i = 0; i < rest.count(); ++i) {
    const int64_t r = missing_rows[i];
    for (int64_t pair = pairs.first[r]; pair < pairs.first[r + 1]; ++pair)
      if (!is_candidate(negatives[pair].index))
        negatives[pair] = {easiest ? -found.key[i] : found.key[i], found.index[i]};
  }
}

}  // namespace

template <class T>
bool select_all_positives(const SelectionRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                          int64_t depth, const ThreadPool& pool, PositivePairs<T>& out) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, refs, depth, pool);
  if (operands.empty()) return operands.finite();
  const SortedRows<T>& rows = operands.rows();
  const RowPairs<T> pairs(rule, operands, pool);
  const int64_t count = rows.count(), num_pairs = pairs.first[count];

  WorkspaceVector<Candidate<T>> negatives;
  if (rule.negative == Negative::kSemihard) {
    negatives = semihard_negatives(rule, operands, pairs, pool);
    if (rule.semihard_fallback != Fallback::kNone) fill_in(rule.semihard_fallback, operands, pairs, pool, negatives);
  } else {
    const bool easiest = prefers_least_similar(rule.negative);
    const SelectionResult<T> of_row = row_negatives(operands, easiest, pool);
    negatives.resize(num_pairs);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t pair = pairs.first[r]; pair < pairs.first[r + 1]; ++pair)
        negatives[pair] = {easiest ? -of_row.key[r] : of_row.key[r], of_row.index[r]};
  }

  WorkspaceVector<int64_t> next(anchors.count + 1, 0);
  for (int64_t r = 0; r < count; ++r) next[rows.permutation()[r] + 1] = pairs.count(r);
  std::partial_sum(next.begin(), next.end(), next.begin());
  for (WorkspaceVector<int64_t>* indices : {&out.anchor, &out.positive, &out.negative}) indices->resize(num_pairs);
  out.positive_similarity.resize(num_pairs);
  out.negative_similarity.resize(num_pairs);
  for (int64_t r = 0; r < count; ++r) {
    const Index anchor = rows.permutation()[r];
    for (int64_t pair = pairs.first[r]; pair < pairs.first[r + 1]; ++pair) {
      const int64_t place = next[anchor]++;
      const auto [key, index] = negatives[pair];
      const bool found = is_candidate(index);
      out.anchor[place] = anchor;
      out.positive[place] = pairs.positive[pair];
      out.positive_similarity[place] = similarity_from_key(rule.similarity, pairs.positive_key[pair]);
      out.negative[place] = found ? index : -1;
      out.negative_similarity[place] =
          found ? similarity_from_key(rule.similarity, key) : std::numeric_limits<T>::quiet_NaN();
    }
  }
  return operands.finite();
}

template decltype(select_all_positives<float>) select_all_positives<float>;
template decltype(select_all_positives<double>) select_all_positives<double>;

}  // namespace hardmine::cpu
