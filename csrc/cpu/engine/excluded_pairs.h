// The pairs whose ids exclude them, for the tile engine.
#pragma once

#include <bit>

#include "core/random.h"
#include "cpu/engine/rows.h"

namespace hardmine::cpu {

// Its highest bits are the slot of a hash table. A product alone would send ids with a stride near some Fibonacci
// number to neighboring slots.
inline uint64_t hash_of_id(int64_t id) { return random_bits(0, static_cast<uint64_t>(id)); }

// The pairs of equal ids >= 0 of two sorted matrices. O(rows + columns) time and memory: rows of equal ids share one
// list of columns.
class PairExclusions {
 public:
  // Ids [count] by row of the input; null if there are none. If the columns are the rows, each row is in its own list,
  // unless that holds no other row: then the list is empty.
  template <class T>
  PairExclusions(const int64_t* row_id, const SortedRows<T>& rows, const int64_t* column_id,
                 const SortedRows<T>& columns) {
    if (!row_id || !column_id) return;
    const Groups groups(row_id, rows);
    WorkspaceVector<Index> group_of_column(columns.count()), first(groups.count() + 1, 0);
    for (int64_t c = 0; c < columns.count(); ++c) {
      group_of_column[c] = groups.find(column_id[columns.permutation()[c]]);
      if (group_of_column[c] >= 0) ++first[group_of_column[c] + 1];
    }
    const Index min_size = &columns.permutation() == &rows.permutation() ? 2 : 1;
    for (Index& size : first)
      if (size < min_size) size = 0;
    std::partial_sum(first.begin(), first.end(), first.begin());
    if (first.back() == 0) return;

    column_.resize(first.back());
    WorkspaceVector<Index> next = first;
    for (int64_t c = 0; c < columns.count(); ++c) {
      const Index group = group_of_column[c];
      if (group >= 0 && first[group] < first[group + 1]) column_[next[group]++] = static_cast<Index>(c);
    }
    const int64_t step = kernels<TileKernels<T>>().micro_tile_rows;
    begin_.assign(rows.count(), 0);
    end_.assign(rows.count(), 0);
    min_column_.assign(ceil_div(rows.count(), step), kAtLowerBound);
    max_column_.assign(ceil_div(rows.count(), step), -1);
    for (int64_t r = 0; r < rows.count(); ++r) {
      const Index group = groups.find(row_id[rows.permutation()[r]]);
      if (group < 0 || first[group] == first[group + 1]) continue;
      begin_[r] = first[group];
      end_[r] = first[group + 1];
      min_column_[r / step] = std::min(min_column_[r / step], column_[begin_[r]]);
      max_column_[r / step] = std::max(max_column_[r / step], column_[end_[r] - 1]);
    }
    view_ = {begin_.data(), end_.data(), column_.data(), min_column_.data(), max_column_.data()};
  }
  PairExclusions(const PairExclusions&) = delete;
  PairExclusions& operator=(const PairExclusions&) = delete;

  // Null if no pair is excluded.
  const ExcludedPairs* view() const { return column_.empty() ? nullptr : &view_; }

  // The number of excluded columns of a row in [begin, end).
  int64_t count(int64_t row, int64_t begin, int64_t end) const {
    if (column_.empty()) return 0;
    const auto first = column_.begin() + begin_[row], last = column_.begin() + end_[row];
    return std::lower_bound(first, last, end) - std::lower_bound(first, last, begin);
  }

 private:
  // The distinct ids >= 0 of the rows, numbered 0, 1, ... in a hash table with open addressing.
  class Groups {
   public:
    template <class T>
    Groups(const int64_t* id, const SortedRows<T>& rows)
        : shift_(64 - static_cast<int>(std::bit_width(static_cast<uint64_t>(2 * rows.count() + 1)))),
          slot_(int64_t{1} << (64 - shift_), -1) {
      for (int64_t r = 0; r < rows.count(); ++r) {
        const int64_t own = id[rows.permutation()[r]];
        if (own < 0) continue;
        Index& group = slot_[slot_of(own)];
        if (group >= 0) continue;
        group = static_cast<Index>(id_.size());
        id_.push_back(own);
      }
    }

    int64_t count() const { return static_cast<int64_t>(id_.size()); }
    // The number of an id; -1 if no row has it, or it is negative.
    Index find(int64_t id) const { return id < 0 ? -1 : slot_[slot_of(id)]; }

   private:
    // Where the id is, or would be.
    size_t slot_of(int64_t id) const {
      size_t slot = hash_of_id(id) >> shift_;
      while (slot_[slot] >= 0 && id_[slot_[slot]] != id) slot = slot + 1 == slot_.size() ? 0 : slot + 1;
      return slot;
    }

    int shift_;
    WorkspaceVector<Index> slot_;  // the number of the id there, or -1
    WorkspaceVector<int64_t> id_;
  };

  WorkspaceVector<Index> begin_, end_, column_, min_column_, max_column_;
  ExcludedPairs view_{};
};

}  // namespace hardmine::cpu
