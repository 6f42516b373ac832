// A matrix of embeddings as a measure of pairs uses it: as given, or with normalized rows.
#pragma once

#include <algorithm>
#include <memory>

#include "core/similarity.h"
#include "cpu/engine/rows.h"

namespace hardmine::cpu {

// Whether the normalized rows themselves are needed, or only the norms.
enum class UnitRows : uint8_t { kNotStored, kStored };

template <class T>
class NormalizedRows {
 public:
  NormalizedRows(const PairMeasure& measure, const T* x, int64_t count, int64_t depth, UnitRows unit_rows,
                 const ThreadPool& pool)
      : x_(x), depth_(depth) {
    if (!measure.normalized) return;
    norms_ = std::make_unique<Norms<T>>(x, count, depth, pool);
    if (unit_rows == UnitRows::kNotStored) return;
    unit_ = Buffer<T>(count * depth);
    const int64_t threads =
        thread_count_for(pool, static_cast<double>(count) * static_cast<double>(depth), kElementGrain);
    parallel_range(pool, threads, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t k = i * depth; k < (i + 1) * depth; ++k) unit_[k] = x[k] / norm(i);
    });
  }

  // The row as given, and the normalized row if stored.
  const T* raw(int64_t i) const { return x_ + i * depth_; }
  const T* row(int64_t i) const { return unit_.get() ? unit_.get() + i * depth_ : raw(i); }
  // The clamped norm of a row, and whether all rows and norms are finite. Only if the measure normalizes.
  T norm(int64_t i) const { return norms_->norm[i]; }
  bool finite() const { return norms_->finite; }

 private:
  const T* x_;
  int64_t depth_;
  std::unique_ptr<Norms<T>> norms_;
  Buffer<T> unit_;
};

}  // namespace hardmine::cpu
