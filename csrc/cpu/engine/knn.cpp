// Without refs, PairSchedule visits each unordered pair of row groups once, and each row has one reservoir of
// candidates. With refs, a task is a group of queries and a split of the refs. If there are fewer groups than threads,
// the refs are split, and each row has one reservoir per split, which are merged. The order of candidates is total, so
// the result does not depend on which reservoir saw a candidate, or when.
//
// A block of a larger set may hold the pairs of its first rows with the others only. Its reservoirs then admit only
// candidates that reach the k-th of the lists so far.

#include "cpu/engine/knn.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/engine/pair_schedule.h"
#include "cpu/engine/pairwise_operands.h"
#include "cpu/engine/quickselect.h"
#include "cpu/simd/knn_block_table.h"

namespace hardmine::cpu {
namespace {

// Not a function: sorting would call it through a pointer.
constexpr auto is_better = [](const auto& a, const auto& b) { return beats(a.key, a.index, b.key, b.index); };

constexpr int64_t kMaxSlack = 256;  // capacity of a reservoir beyond its k best

void select_best(Neighbor<float>* candidates, int64_t size, int64_t k) {
  uint64_t packed[kMaxNeighbors + kMaxSlack], smaller[kMaxNeighbors + kMaxSlack];
  std::transform(candidates, candidates + size, packed,
                 [](const Neighbor<float>& c) { return packed_candidate(c.key, c.index); });
  select_largest(packed, smaller, size, k);
  std::transform(packed, packed + k, candidates,
                 [](uint64_t c) { return Neighbor<float>{key_of_packed(c), index_of_packed(c)}; });
}
void select_best(Neighbor<double>* candidates, int64_t size, int64_t k) {
  std::nth_element(candidates, candidates + k - 1, candidates + size, is_better);
}

enum class ListOrder : uint8_t { kBestFirst, kNone };

// Keeps the k best, in no particular order.
template <class T>
void keep_best(std::vector<Neighbor<T>>& candidates, int64_t k) {
  const int64_t count = std::ssize(candidates);
  if (count <= k) return;
  select_best(candidates.data(), count, k);
  candidates.resize(k);
}

// Keeps the k best, best first. The sign of a zero key is lost.
void sort_best(std::vector<Neighbor<float>>& candidates, int64_t k) {
  // Integers sort in half the time of pairs.
  thread_local std::vector<uint64_t> packed, smaller;
  const int64_t count = std::ssize(candidates), kept = std::min(k, count);
  packed.resize(count);
  smaller.resize(count);
  std::transform(candidates.begin(), candidates.end(), packed.begin(),
                 [](const Neighbor<float>& c) { return packed_candidate(c.key, c.index); });
  if (kept < count) select_largest(packed.data(), smaller.data(), count, kept);
  std::sort(packed.begin(), packed.begin() + kept, std::greater<>());
  candidates.resize(kept);
  std::transform(packed.begin(), packed.begin() + kept, candidates.begin(),
                 [](uint64_t c) { return Neighbor<float>{key_of_packed(c), index_of_packed(c)}; });
}
void sort_best(std::vector<Neighbor<double>>& candidates, int64_t k) {
  const auto middle = candidates.begin() + std::min(k, static_cast<int64_t>(std::ssize(candidates)));
  if (middle != candidates.end()) std::nth_element(candidates.begin(), middle, candidates.end(), is_better);
  candidates.erase(middle, candidates.end());
  std::sort(candidates.begin(), candidates.end(), is_better);
  for (Neighbor<double>& candidate : candidates) candidate.key += 0.0;  // -0 becomes 0
}

template <class T>
void compact(const Reservoirs<T>& reservoirs, int64_t row) {
  Neighbor<T>* candidates = reservoirs.candidates + row * reservoirs.capacity;
  select_best(candidates, reservoirs.size[row], reservoirs.k);
  reservoirs.size[row] = static_cast<int32_t>(reservoirs.k);
  reservoirs.worst_key[row] = candidates[reservoirs.k - 1].key;
  reservoirs.worst_index[row] = candidates[reservoirs.k - 1].index;
}

// num_splits reservoirs per row; that of split s and row i is s * padded + i.
template <class T>
class ReservoirSet {
 public:
  ReservoirSet(int64_t k, int64_t padded, int64_t num_splits)
      : k_(k),
        capacity_(k + std::clamp<int64_t>(k, 16, kMaxSlack)),
        padded_(padded),
        candidates_(num_splits * padded * capacity_),
        size_(num_splits * padded, 0),
        worst_key_(num_splits * padded, -std::numeric_limits<T>::infinity()),
        // No candidate beats kBelowRange at an equal key, so a similarity of -infinity is never selected.
        worst_index_(num_splits * padded, kBelowRange) {}

  // Only keys of at least floor_key[row] are candidates from now on.
  void raise_floor(const T* floor_key, int64_t rows, int64_t num_splits) {
    for (int64_t s = 0; s < num_splits; ++s) {
      for (int64_t i = 0; i < rows; ++i) {
        worst_key_[s * padded_ + i] = floor_key[i];
        worst_index_[s * padded_ + i] =
            floor_key[i] > -std::numeric_limits<T>::infinity() ? kAtLowerBound : kBelowRange;
      }
    }
  }

  Reservoirs<T> view(int64_t split) {
    const int64_t first = split * padded_;
    return {.k = k_,
            .capacity = capacity_,
            .candidates = candidates_.get() + first * capacity_,
            .size = size_.data() + first,
            .worst_key = worst_key_.data() + first,
            .worst_index = worst_index_.data() + first,
            .compact = compact<T>};
  }

  // Writes the k best candidates of a row to `best`.
  void gather(int64_t row, int64_t num_splits, ListOrder order, std::vector<Neighbor<T>>& best) const {
    best.clear();
    for (int64_t s = 0; s < num_splits; ++s) {
      const Neighbor<T>* candidates = candidates_.get() + (s * padded_ + row) * capacity_;
      best.insert(best.end(), candidates, candidates + size_[s * padded_ + row]);
    }
    order == ListOrder::kBestFirst ? sort_best(best, k_) : keep_best(best, k_);
  }

 private:
  int64_t k_, capacity_, padded_;
  Buffer<Neighbor<T>> candidates_;
  WorkspaceVector<int32_t> size_;
  WorkspaceVector<T> worst_key_;
  WorkspaceVector<Index> worst_index_;
};

// Calls write(row, best) for each query with its k best candidates. floor_key as in knn_unordered, first_rows as in
// KnnBlock.
template <class T, class Write>
void find_neighbors(Similarity kind, const Matrix<T>& queries, const Matrix<T>* refs, int64_t depth, int64_t k,
                    bool exclude_self, const T* floor_key, int64_t first_rows, ListOrder order, const ThreadPool& pool,
                    const Write& write) {
  const KnnKernels<T>& kernel = kernels<KnnKernels<T>>();
  const int64_t count = queries.count;
  // A symmetric pass has no pair of a row with itself.
  if (!refs && !exclude_self && first_rows == 0) refs = &queries;
  const int64_t ref_count = refs ? refs->count : count;
  // One label for all rows: there are no classes, and sorting keeps the order of the rows.
  const WorkspaceVector<int64_t> label(std::max(count, ref_count), 0);
  const LabeledMatrix<T> rows{queries.x, label.data(), count, queries.id};
  const LabeledMatrix<T> columns =
      refs ? LabeledMatrix<T>{refs->x, label.data(), ref_count, refs->id} : LabeledMatrix<T>{};
  const PairwiseOperands<T> operands(measure_of(kind), rows, refs ? &columns : nullptr, depth, pool);
  if (operands.empty()) return;
  const PairwiseParams<T>& params = operands.params();
  const int64_t other_rows = count - first_rows;
  const double pairs = first_rows > 0 ? static_cast<double>(first_rows) * static_cast<double>(other_rows)
                                      : static_cast<double>(count) * static_cast<double>(operands.columns().count()) /
                                            (params.symmetric ? 2 : 1);
  const int64_t threads = thread_count_for(pool, pairs * static_cast<double>(depth), kMultiplyAddGrain);

  const int64_t row_blocks = ceil_div(count, kMaxBlockRows);
  const int64_t column_blocks = ceil_div(ref_count, kMaxBlockColumns);
  const int64_t num_splits = refs ? std::clamp<int64_t>(2 * threads / row_blocks, 1, column_blocks) : 1;
  ReservoirSet<T> reservoirs(k, round_up(count, kBlockStep), num_splits);
  if (floor_key) reservoirs.raise_floor(floor_key, count, num_splits);
  if (params.symmetric) {
    const Reservoirs<T> view = reservoirs.view(0);
    const PairSchedule schedule(first_rows > 0 ? first_rows : count, other_rows,
                                first_rows > 0 ? ScheduleShape::kRectangular : ScheduleShape::kSymmetric);
    // In a rectangular schedule, columns count from the first of the other rows.
    schedule.run(pool, threads, [&](int64_t, const Block& block) {
      kernel.knn_block(params,
                       {block.row_begin, block.row_end, block.column_begin + first_rows, block.column_end + first_rows},
                       view);
    });
  } else {
    parallel_tasks(pool, threads, row_blocks * num_splits, [&](int64_t, int64_t task) {
      const int64_t row = task / num_splits * kMaxBlockRows, split = task % num_splits;
      const Reservoirs<T> view = reservoirs.view(split);
      for (int64_t b = column_blocks * split / num_splits;
           b < column_blocks * (split + 1) / num_splits && !pool.cancelled(); ++b) {
        kernel.knn_block(params,
                         {row, std::min(row + kMaxBlockRows, count), b * kMaxBlockColumns,
                          std::min((b + 1) * kMaxBlockColumns, ref_count)},
                         view);
      }
    });
  }

  parallel_range(pool, threads, count, 1, [&](int64_t begin, int64_t end) {
    std::vector<Neighbor<T>> best;
    for (int64_t i = begin; i < end; ++i) {
      reservoirs.gather(i, num_splits, order, best);
      write(i, best);
    }
  });
}

}  // namespace

template <class T>
void knn(Similarity kind, const Matrix<T>& queries, const Matrix<T>* refs, int64_t depth, int64_t k, bool exclude_self,
         const ThreadPool& pool, T* similarity, int64_t* index) {
  std::fill_n(similarity, queries.count * k, std::numeric_limits<T>::quiet_NaN());
  std::fill_n(index, queries.count * k, int64_t{-1});
  find_neighbors<T>(kind, queries, refs, depth, k, exclude_self, nullptr, 0, ListOrder::kBestFirst, pool,
                    [&](int64_t row, const std::vector<Neighbor<T>>& best) {
                      for (size_t n = 0; n < best.size(); ++n) {
                        similarity[row * k + n] = similarity_from_key(kind, best[n].key);
                        index[row * k + n] = best[n].index;
                      }
                    });
}

template <class T>
void knn_unordered(Similarity kind, const Matrix<T>& queries, int64_t depth, int64_t k, const T* floor_key,
                   const ThreadPool& pool, const VisitNeighbors<T>& visit) {
  find_neighbors<T>(kind, queries, nullptr, depth, k, true, floor_key, 0, ListOrder::kNone, pool, visit);
}

// Merges candidates, best first, into a list of k. `old` is scratch memory.
template <class T>
void merge_into(const NeighborLists<T>& list, int64_t k, const std::vector<Neighbor<T>>& best, const KnnBlock<T>& block,
                std::vector<std::pair<T, int64_t>>& old) {
  if (best.empty()) return;
  old.clear();
  for (int64_t n = 0; n < k && list.number[n] >= 0; ++n) old.push_back({list.key[n], list.number[n]});
  size_t next_old = 0, next_found = 0;
  for (int64_t n = 0; n < k && (next_old < old.size() || next_found < best.size()); ++n) {
    const bool has_old = next_old < old.size();
    if (next_found == best.size()) {
      std::tie(list.key[n], list.number[n]) = old[next_old++];
      continue;
    }
    const T found_key = best[next_found].key;
    const int64_t found_number = block.number_of(best[next_found].index);
    if (has_old && old[next_old].second != found_number &&
        (old[next_old].first > found_key ||
         (old[next_old].first == found_key && old[next_old].second < found_number))) {
      std::tie(list.key[n], list.number[n]) = old[next_old++];
      continue;
    }
    if (has_old && old[next_old].second == found_number) ++next_old;  // listed by an earlier block
    list.key[n] = found_key;
    list.number[n] = found_number;
    ++next_found;
  }
}

template <class T>
void knn_block(Similarity kind, const Matrix<T>& queries, const Matrix<T>* refs, int64_t depth, int64_t k,
               bool exclude_self, const KnnBlock<T>& block, const ThreadPool& pool) {
  // Candidates that are worse than the last of a full list are left out.
  WorkspaceVector<T> floor_key(queries.count, -std::numeric_limits<T>::infinity());
  for (int64_t i = 0; i < queries.count; ++i) {
    const NeighborLists<T> list = block.list_of(i, k);
    if (list.number[k - 1] >= 0) floor_key[i] = list.key[k - 1];
  }
  find_neighbors<T>(kind, queries, refs, depth, k, exclude_self, floor_key.data(), block.first_rows,
                    ListOrder::kBestFirst, pool, [&](int64_t row, const std::vector<Neighbor<T>>& best) {
                      thread_local std::vector<std::pair<T, int64_t>> old;
                      merge_into(block.list_of(row, k), k, best, block, old);
                    });
}

template decltype(knn<float>) knn<float>;
template decltype(knn<double>) knn<double>;
template decltype(knn_unordered<float>) knn_unordered<float>;
template decltype(knn_unordered<double>) knn_unordered<double>;
template decltype(knn_block<float>) knn_block<float>;
template decltype(knn_block<double>) knn_block<double>;

}  // namespace hardmine::cpu
