// A labeled matrix prepared for the tile engine: sorted by label, normalized and packed.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/int_math.h"
#include "core/similarity.h"
#include "core/views.h"
#include "cpu/engine/buffer.h"
#include "cpu/engine/target.h"
#include "cpu/engine/thread_pool.h"
#include "cpu/simd/block_table.h"
#include "cpu/simd/row_kernels_table.h"

namespace hardmine::cpu {

// The number of multiply-adds, or of elements of a memory-bound loop, that is worth a thread. Starting one costs
// microseconds on a quiet machine. Where other processes run, as the workers of a DataLoader do, a parallel region
// waits for a scheduler slice of milliseconds. So a pass shorter than about half a millisecond runs on one thread.
inline constexpr double kMultiplyAddGrain = 1 << 24;
inline constexpr double kElementGrain = 1 << 19;

// The norms |x_i| of all rows, clamped from below to kMinNorm.
template <class T>
struct Norms {
  Buffer<T> norm;  // [count]
  bool finite = true;
  bool clamped = false;  // some norm was clamped, so that x_i / norm is not a unit row

  Norms(const T* x, int64_t count, int64_t depth, const ThreadPool& pool) : norm(count) {
    const RowKernels<T>& kernel =
        kernels<RowKernels<T>>();  // before the threads start, since it throws if HARDMINE_SIMD is invalid
    std::atomic<bool> all_finite{true}, any_clamped{false};
    const int64_t threads =
        thread_count_for(pool, static_cast<double>(count) * static_cast<double>(depth), kElementGrain);
    parallel_range(pool, threads, count, 1, [&](int64_t begin, int64_t end) {
      if (!kernel.row_norms(x + begin * depth, end - begin, depth, norm.get() + begin)) all_finite = false;
      for (int64_t i = begin; i < end; ++i) {
        if (!(norm[i] <= T(kMinNorm))) continue;  // NaN stays NaN
        norm[i] = T(kMinNorm);
        any_clamped = true;
      }
    });
    finite = all_finite;
    clamped = any_clamped;
  }
};

// Turns acc, the gradient of x / |x|, into that of x; 0 if x has no direction.
template <class T>
void project(const RowKernels<T>& kernel, T* acc, const T* x, T norm, int64_t depth) {
  if (!has_direction(norm)) {
    std::fill_n(acc, depth, T(0));
  } else {
    kernel.project(acc, x, norm, kernel.dot(acc, x, depth) / norm, depth);
  }
}

// The layouts that sorted rows are packed into (cpu/simd/operands.h).
enum class PackFor : uint8_t { kNothing, kRows, kColumns, kRowsAndColumns };

template <class T>
class SortedRows {
 public:
  // `subset`: the rows to take, ascending by (label, index). If null, all rows are taken and sorted.
  SortedRows(const LabeledMatrix<T>& rows, int64_t depth, const T* norm, const WorkspaceVector<Index>* subset,
             PackFor pack_for, const ThreadPool& pool)
      : count_(subset ? static_cast<int64_t>(subset->size()) : rows.count) {
    const TileKernels<T>& kernel = kernels<TileKernels<T>>();
    const int64_t padded = round_up(count_, std::max(kernel.micro_tile_rows, kernel.panel_columns));
    permutation_ = subset ? *subset : sorted_permutation(rows);
    permutation_.resize(padded, permutation_.empty() ? 0 : permutation_.back());
    label_.resize(padded);
    for (int64_t i = 0; i < padded; ++i) label_[i] = rows.label[permutation_[i]];
    if (pack_for == PackFor::kRows || pack_for == PackFor::kRowsAndColumns)
      groups_ = packed(kernel, rows.x, depth, norm, kernel.micro_tile_rows, pool);
    if (pack_for == PackFor::kColumns || pack_for == PackFor::kRowsAndColumns)
      panels_ = packed(kernel, rows.x, depth, norm, kernel.panel_columns, pool);
  }

  PackedMatrix<T> view() const {
    return {.groups = groups_.get(),
            .panels = panels_.get(),
            .label = label_.data(),
            .id = permutation_.data(),
            .count = count_};
  }
  int64_t count() const { return count_; }
  int64_t padded() const { return static_cast<int64_t>(permutation_.size()); }
  const WorkspaceVector<Index>& permutation() const { return permutation_; }
  const WorkspaceVector<int64_t>& label() const { return label_; }

 private:
  // All rows in ascending order of (label, index).
  static WorkspaceVector<Index> sorted_permutation(const LabeledMatrix<T>& rows) {
    WorkspaceVector<Index> permutation(rows.count);
    std::iota(permutation.begin(), permutation.end(), 0);
    const int64_t* end = rows.label + rows.count;
    // Class-balanced samplers often produce sorted batches.
    if (std::is_sorted(rows.label, end)) return permutation;
    // Labels in a small range are sorted by counting, which is stable. The range of arbitrary labels may overflow
    // int64.
    const auto [low, high] = std::minmax_element(rows.label, end);
    const uint64_t range = static_cast<uint64_t>(*high) - static_cast<uint64_t>(*low);
    if (range < 4 * static_cast<uint64_t>(rows.count) + 1024) {
      WorkspaceVector<Index> next(range + 2, 0);
      for (int64_t i = 0; i < rows.count; ++i) ++next[rows.label[i] - *low + 1];
      std::partial_sum(next.begin(), next.end(), next.begin());
      for (int64_t i = 0; i < rows.count; ++i) permutation[next[rows.label[i] - *low]++] = static_cast<Index>(i);
    } else {
      std::stable_sort(permutation.begin(), permutation.end(),
                       [&](Index a, Index b) { return rows.label[a] < rows.label[b]; });
    }
    return permutation;
  }

  Buffer<T> packed(const TileKernels<T>& kernel, const T* x, int64_t depth, const T* norm, int64_t group,
                   const ThreadPool& pool) const {
    Buffer<T> out(round_up(count_, group) * depth);
    const int64_t threads =
        thread_count_for(pool, static_cast<double>(count_) * static_cast<double>(depth), kElementGrain);
    parallel_range(pool, threads, count_, group, [&](int64_t begin, int64_t end) {
      kernel.pack(x, depth, permutation_.data(), norm, count_, begin, end, group, out.get());
    });
    return out;
  }

  int64_t count_;
  WorkspaceVector<Index> permutation_;  // [padded]: the input row at each sorted position
  WorkspaceVector<int64_t> label_;      // [padded]
  Buffer<T> groups_, panels_;
};

}  // namespace hardmine::cpu
