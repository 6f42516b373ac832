// A pass over all blocks of similarities.
#pragma once

#include <vector>

#include "cpu/engine/pair_schedule.h"
#include "cpu/engine/pairwise_operands.h"

namespace hardmine::cpu {

// Calls visit(worker, block, scores) for every block that may hold pairs of `kind` and for which wanted(block) is true,
// in the order of PairSchedule, if it is in the part. fill(block, buffer) returns the scores, in the buffer or
// elsewhere. `cost` is the arithmetic of a visit and of the block's similarities, relative to the latter alone.
template <class T, class Wanted, class Fill, class Visit>
void for_each_filled_block(const PairwiseOperands<T>& operands, PairKind kind, double cost, const ThreadPool& pool,
                           const Wanted& wanted, const Fill& fill, const Visit& visit, const PassPart& part = {}) {
  const PairwiseParams<T>& params = operands.params();
  const int64_t rows = operands.rows().count(), columns = operands.columns().count();
  const double work = static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(operands.depth()) /
                      static_cast<double>((params.symmetric ? 2 : 1) * part.num_parts);
  const int64_t threads = thread_count_for(pool, cost * work, kMultiplyAddGrain);
  std::vector<Buffer<T>> scores;
  for (int64_t t = 0; t < threads; ++t) scores.emplace_back(kMaxBlockRows * kMaxBlockColumns);
  const PairSchedule schedule(rows, columns, params.symmetric ? ScheduleShape::kSymmetric : ScheduleShape::kRectangular,
                              part);
  const auto &row_label = operands.rows().label(), &column_label = operands.columns().label();
  schedule.run(pool, threads, [&](int64_t worker, const Block& block) {
    const int64_t row_low = row_label[block.row_begin], row_high = row_label[block.row_end - 1];
    const int64_t column_low = column_label[block.column_begin], column_high = column_label[block.column_end - 1];
    const bool disjoint = row_high < column_low || column_high < row_low;
    const bool single = row_low == row_high && column_low == column_high && row_low == column_low;
    if (kind == PairKind::kSameClass ? disjoint : kind == PairKind::kOtherClass && single) return;
    if (!wanted(block)) return;
    visit(worker, block, fill(block, scores[worker].get()));
  });
}

// The same with the scores of the pairs of `kind`, NaN for other pairs.
template <class T, class Wanted, class Visit>
void for_each_block(const PairwiseOperands<T>& operands, PairKind kind, double cost, const ThreadPool& pool,
                    const Wanted& wanted, const Visit& visit, const PassPart& part = {}) {
  const auto fill = [&](const Block& block, T* buffer) {
    kernels<TileKernels<T>>().fill_block(operands.params(), kind, block, buffer);
    return buffer;
  };
  for_each_filled_block(operands, kind, cost, pool, wanted, fill, visit, part);
}

template <class T, class Visit>
void for_each_block(const PairwiseOperands<T>& operands, PairKind kind, double cost, const ThreadPool& pool,
                    const Visit& visit, const PassPart& part = {}) {
  for_each_block(operands, kind, cost, pool, [](const Block&) { return true; }, visit, part);
}

}  // namespace hardmine::cpu
