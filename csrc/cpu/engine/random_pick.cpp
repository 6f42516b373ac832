#include "cpu/engine/random_pick.h"

#include <bit>

#include "core/random.h"

namespace hardmine::cpu {
namespace {

struct Run {
  int64_t begin, end;
};

// The range of sorted rows that have the label.
template <class T>
Run run_of(int64_t label, const SortedRows<T>& rows) {
  const auto first = rows.label().begin(), last = first + rows.count();
  const auto [begin, end] = std::equal_range(first, last, label);
  return {begin - first, end - first};
}

// The excluded pairs, and per list of excluded columns also the columns' indices in ascending order.
template <class T>
class SortedExclusions {
 public:
  SortedExclusions(const ExcludedPairs* excluded, int64_t rows, const SortedRows<T>& columns) : excluded_(excluded) {
    if (!excluded) return;
    index_.resize(*std::max_element(excluded->end, excluded->end + rows), -1);
    for (int64_t r = 0; r < rows; ++r) {
      const Index begin = excluded->begin[r], end = excluded->end[r];
      if (begin == end || index_[begin] >= 0) continue;  // rows of equal ids share a list
      for (Index e = begin; e < end; ++e) index_[e] = columns.permutation()[excluded->column[e]];
      std::sort(index_.begin() + begin, index_.begin() + end);
    }
  }

  Index size(int64_t row) const { return excluded_ ? excluded_->end[row] - excluded_->begin[row] : 0; }
  // A row's list by column, and by index.
  const Index* columns(int64_t row) const { return excluded_->column + excluded_->begin[row]; }
  const Index* indices(int64_t row) const { return index_.data() + excluded_->begin[row]; }

 private:
  const ExcludedPairs* excluded_;
  WorkspaceVector<Index> index_;
};

// The position of the rank-th set bit.
Index ranked_bit(const uint64_t* words, Index rank) {
  Index word = 0;
  for (; std::popcount(words[word]) <= rank; ++word) rank -= std::popcount(words[word]);
  uint64_t bits = words[word];
  for (; rank > 0; --rank) bits &= bits - 1;
  return word * 64 + std::countr_zero(bits);
}

template <class T>
class Picker {
 public:
  Picker(const RandomPick<T>& pick, const PickOperand<T>& rows, const PickOperand<T>& columns,
         const SortedExclusions<T>& exclusions, const SelectionResult<T>& out)
      : pick_(pick), rows_(rows), columns_(columns), exclusions_(exclusions), out_(out) {}

  // Picks one of the row's `count` candidates. candidate(rank) is the rank-th of their ascending indices.
  template <class Candidate>
  void choose(int64_t row, Index count, const Candidate& candidate) const {
    out_.index[row] = kBelowRange;
    if (count == 0) return;
    const int64_t anchor = rows_.sorted.permutation()[row];
    const int64_t other = candidate(drawn_rank(pick_.uniform[anchor], count));
    const T score = kernels<TileKernels<T>>().pair_score(
        rows_.x + anchor * pick_.depth, columns_.x + other * pick_.depth, rows_.norm ? rows_.norm + anchor : nullptr,
        columns_.norm ? columns_.norm + other : nullptr, pick_.depth, pick_.euclidean, pick_.hyperbolic);
    out_.index[row] = static_cast<Index>(other);
    out_.key[row] = key_from_score(pick_.euclidean, score);
  }

  // Picks for rows [begin, end) if the candidates follow from labels and ids.
  void by_label(int64_t begin, int64_t end) const {
    const SortedRows<T>&rows = rows_.sorted, &columns = columns_.sorted;
    Run class_rows{};
    for (int64_t i = begin; i < end; ++i) {
      if (i == begin || rows.label()[i] != rows.label()[i - 1]) class_rows = run_of(rows.label()[i], columns);
      const Index size = static_cast<Index>(class_rows.end - class_rows.begin);
      const Index* permutation = columns.permutation().data();
      if (exclusions_.size(i) > 0) {
        without_excluded(i, class_rows);
      } else if (pick_.kind == PairKind::kSameClass) {
        choose(i, size - (pick_.symmetric ? 1 : 0), [&](Index rank) {
          return permutation[ranked_positive(class_rows.begin, rank, pick_.symmetric ? i : -1)];
        });
      } else {
        choose(i, static_cast<Index>(columns.count()) - size,
               [&](Index rank) { return ranked_negative(permutation + class_rows.begin, size, rank); });
      }
    }
  }

  // Picks for rows [begin, end) of one block row if the candidates depend on similarities. Block by block, the
  // candidates of each row are marked in `bits` [end - begin, words]. `scores` holds one block.
  void by_similarity(const PairwiseParams<T>& params, int64_t begin, int64_t end, const ThreadPool& pool, T* scores,
                     uint64_t* bits, int64_t words) const {
    const SortedRows<T>&rows = rows_.sorted, &columns = columns_.sorted;
    Run blocks{0, columns.count()};
    if (pick_.kind == PairKind::kSameClass) {
      blocks = {round_down(run_of(rows.label()[begin], columns).begin, kBlockStep),
                run_of(rows.label()[end - 1], columns).end};
    }
    std::fill_n(bits, (end - begin) * words, 0);
    for (int64_t column = blocks.begin; column < blocks.end; column += kMaxBlockColumns) {
      if (pool.cancelled()) return;
      const Block block{begin, end, column, std::min(column + kMaxBlockColumns, blocks.end)};
      kernels<TileKernels<T>>().fill_block(params, pick_.kind, block, scores);
      mark(block, scores, bits, words);
    }
    for (int64_t i = begin; i < end; ++i) {
      uint64_t* marked = bits + (i - begin) * words;
      const Index self = rows.permutation()[i];
      if (pick_.symmetric) marked[self / 64] &= ~(uint64_t{1} << (self % 64));
      Index count = 0;
      for (int64_t w = 0; w < words; ++w) count += std::popcount(marked[w]);
      choose(i, count, [&](Index rank) { return ranked_bit(marked, rank); });
    }
  }

 private:
  // As by_label, for a row with excluded columns. If the pass is symmetric, the row itself is one of them.
  void without_excluded(int64_t row, const Run& class_rows) const {
    const Index *permutation = columns_.sorted.permutation().data(), *members = permutation + class_rows.begin;
    const Index size = static_cast<Index>(class_rows.end - class_rows.begin), excluded = exclusions_.size(row);
    const Index *column = exclusions_.columns(row), *index = exclusions_.indices(row);
    // The excluded columns of the class ascend by index, too.
    const Index* own = std::lower_bound(column, column + excluded, class_rows.begin);
    const Index own_count = static_cast<Index>(std::lower_bound(own, column + excluded, class_rows.end) - own);
    if (pick_.kind == PairKind::kSameClass) {
      choose(row, size - own_count, [&](Index rank) {
        const Index skipped =
            partition_point(Index{0}, own_count, [&](Index e) { return own[e] - class_rows.begin - e <= rank; });
        return members[rank + skipped];
      });
      return;
    }
    const auto own_below = [&](Index i) {
      return partition_point(Index{0}, own_count, [&](Index e) { return permutation[own[e]] < i; });
    };
    choose(row, static_cast<Index>(columns_.sorted.count()) - size - (excluded - own_count), [&](Index rank) {
      // Below the e-th excluded index there are index[e] others, of which some are of the class or excluded. The
      // excluded indices below the pick are those with at most `rank` candidates below.
      const Index before = partition_point(Index{0}, excluded, [&](Index e) {
        const Index of_class = partition_point(Index{0}, size, [&](Index m) { return members[m] < index[e]; });
        return index[e] - of_class - (e - own_below(index[e])) <= rank;
      });
      const Index own_before = before > 0 ? own_below(index[before - 1] + 1) : 0;
      return ranked_negative(members, size, rank + before - own_before);
    });
  }

  void mark(const Block& block, const T* scores, uint64_t* bits, int64_t words) const {
    const Index* id = columns_.sorted.permutation().data() + block.column_begin;
    for (int64_t r = 0; r < block.rows(); ++r) {
      for (int64_t c = 0; c < block.columns(); ++c) {
        const T score = scores[r * kMaxBlockColumns + c];
        if (key_from_score(pick_.euclidean, score) <= pick_.upper)  // false for NaN
          bits[r * words + id[c] / 64] |= uint64_t{1} << (id[c] % 64);
      }
    }
  }

  const RandomPick<T>& pick_;
  const PickOperand<T>&rows_, &columns_;
  const SortedExclusions<T>& exclusions_;
  const SelectionResult<T>& out_;
};

}  // namespace

template <class T>
SelectionResult<T> pick_random(const RandomPick<T>& pick, const PickOperand<T>& rows, const PickOperand<T>& columns,
                               const ThreadPool& pool) {
  const int64_t count = rows.sorted.count(), column_count = columns.sorted.count();
  const double depth = static_cast<double>(pick.depth);
  SelectionResult<T> out{Buffer<T>(count), Buffer<Index>(count)};
  const SortedExclusions<T> exclusions(pick.by_similarity ? nullptr : pick.excluded, count, columns.sorted);
  const Picker<T> picker(pick, rows, columns, exclusions, out);
  if (!pick.by_similarity) {
    // The score of one pair is a chain of dependent sums, so an element costs several of a streaming loop.
    const int64_t threads = thread_count_for(pool, 2 * static_cast<double>(count) * depth, kElementGrain);
    parallel_range(pool, threads, count, 1, [&](int64_t begin, int64_t end) { picker.by_label(begin, end); });
    return out;
  }
  PairwiseParams<T> params{};  // not symmetric, so that each row sees all its candidates
  params.rows = rows.sorted.view();
  params.columns = columns.sorted.view();
  params.depth = pick.depth;
  params.euclidean = pick.euclidean;
  params.hyperbolic = pick.hyperbolic;
  params.excluded = pick.excluded;
  const double same = same_class_pairs(rows.sorted, columns.sorted);
  const double pairs =
      pick.kind == PairKind::kSameClass ? same : static_cast<double>(count) * static_cast<double>(column_count) - same;
  const int64_t threads = thread_count_for(pool, pairs * depth, kMultiplyAddGrain);
  const int64_t words = ceil_div(column_count, 64);
  const Buffer<T> scores(threads * kMaxBlockRows * kMaxBlockColumns);
  const Buffer<uint64_t> bits(threads * kMaxBlockRows * words);
  parallel_tasks(pool, threads, ceil_div(count, kMaxBlockRows), [&](int64_t worker, int64_t block) {
    const int64_t begin = block * kMaxBlockRows, end = std::min(begin + kMaxBlockRows, count);
    picker.by_similarity(params, begin, end, pool, scores.get() + worker * kMaxBlockRows * kMaxBlockColumns,
                         bits.get() + worker * kMaxBlockRows * words, words);
  });
  return out;
}

template decltype(pick_random<float>) pick_random<float>;
template decltype(pick_random<double>) pick_random<double>;

}  // namespace hardmine::cpu
