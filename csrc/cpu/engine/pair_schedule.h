// A schedule of parallel visits to pairs of row groups. A visit has both groups to itself, and the order of the visits
// of each group does not depend on the number of threads.
//
// Without the schedule, visits that add to sums of their rows and columns would race. The pairs of groups form a
// tournament: in each round every group occurs at most once. A visit starts when both its groups have finished their
// previous visits, so a group meets the other groups one at a time and in a fixed order. No visit waits for a whole
// round.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "core/int_math.h"
#include "cpu/engine/pass_part.h"
#include "cpu/engine/thread_pool.h"
#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// kRectangular: each group of rows meets each group of columns. kSymmetric: the columns are the rows, and each
// unordered pair of groups, and each group with itself, is visited once, with row group <= column group.
enum class ScheduleShape { kRectangular, kSymmetric };

class PairSchedule {
 public:
  PairSchedule(int64_t rows, int64_t columns, ScheduleShape shape, const PassPart& part = {})
      : symmetric_(shape == ScheduleShape::kSymmetric),
        row_count_(rows),
        column_count_(columns),
        row_step_(group_step(rows)),
        column_step_(symmetric_ ? row_step_ : group_step(columns)) {
    const int64_t row_groups = ceil_div(rows, row_step_), column_groups = ceil_div(columns, column_step_);
    if (symmetric_) {
      for (int64_t g = 0; g < row_groups; ++g) pairs_.push_back({g, g});
      // The circle method of round-robin tournaments: the last place is fixed, the others rotate by one per round. With
      // an odd number of groups the last place is empty, and the group opposite pauses.
      const int64_t places = row_groups + row_groups % 2;
      for (int64_t round = 0; round < places - 1; ++round) {
        add(round, places - 1, row_groups);
        for (int64_t i = 1; i < places / 2; ++i)
          add((round + i) % (places - 1), (round + places - 1 - i) % (places - 1), row_groups);
      }
    } else {
      const int64_t rounds = std::max(row_groups, column_groups);
      for (int64_t round = 0; round < rounds; ++round)
        for (int64_t g = 0; g < row_groups; ++g)
          if ((g + round) % rounds < column_groups) pairs_.push_back({g, (g + round) % rounds});
    }
    if (part.num_parts > 1) keep(part);
    std::vector<int64_t> row_visits(row_groups, 0), column_visits(column_groups, 0);
    for (Pair& pair : pairs_) {
      pair.row_turn = row_visits[pair.row]++;
      pair.column_turn = symmetric_ && pair.column == pair.row ? pair.row_turn
                         : symmetric_                          ? row_visits[pair.column]++
                                                               : column_visits[pair.column]++;
    }
    row_groups_ = row_groups;
    column_groups_ = column_groups;
  }

  // Calls body(worker, block) for every block of every pair of groups, on `threads` threads. Throws Cancelled, and what
  // `body` throws.
  template <class Body>
  void run(const ThreadPool& pool, int64_t threads, const Body& body) const {
    const auto row_done = std::make_unique<std::atomic<int64_t>[]>(row_groups_);
    const auto other_done = symmetric_ ? nullptr : std::make_unique<std::atomic<int64_t>[]>(column_groups_);
    std::atomic<int64_t>* column_done = symmetric_ ? row_done.get() : other_done.get();
    // No deadlock: tasks are handed out in order, so a visit only waits for visits that have started. The waiting
    // thread may be the only one that checks for cancellation, so it has to keep checking.
    const auto wait = [&pool](const std::atomic<int64_t>& done, int64_t turn) {
      while (done.load(std::memory_order_acquire) != turn) {
        std::this_thread::yield();
        (void)pool.cancelled();
      }
    };
    parallel_tasks(pool, threads, static_cast<int64_t>(pairs_.size()), [&](int64_t worker, int64_t task) {
      const Pair& pair = pairs_[task];
      wait(row_done[pair.row], pair.row_turn);
      wait(column_done[pair.column], pair.column_turn);
      // The destructor ends the visit even if `body` throws: other visits wait for it.
      struct Over {
        std::atomic<int64_t>&row, &column;
        const Pair& pair;
        ~Over() {
          row.store(pair.row_turn + 1, std::memory_order_release);
          if (&column != &row) column.store(pair.column_turn + 1, std::memory_order_release);
        }
      } over{row_done[pair.row], column_done[pair.column], pair};
      visit_blocks(pair, pool, [&](const Block& block) { body(worker, block); });
    });
  }

 private:
  struct Pair {
    int64_t row, column;
    int64_t row_turn = 0, column_turn = 0;  // earlier visits of the group
  };

  // Depends on the number of rows alone, as the order of every sum must. 64 groups keep 32 threads busy. No block
  // crosses a multiple of kMaxBlockColumns, by which KeptScores stores them: longer groups are multiples of it.
  static int64_t group_step(int64_t count) {
    constexpr int64_t kGroups = 64, kSteps = kMaxBlockColumns / kBlockStep;
    static_assert(kSteps == 2 && kMaxBlockColumns % kBlockStep == 0);
    const int64_t steps = ceil_div(count, kGroups * kBlockStep);
    return steps < kSteps ? kBlockStep : steps / kSteps * kMaxBlockColumns;
  }

  void add(int64_t a, int64_t b, int64_t row_groups) {
    if (a < row_groups && b < row_groups) pairs_.push_back({std::min(a, b), std::max(a, b)});
  }

  // Removes the pairs of groups that are not in the part. Every pair is in exactly one part.
  void keep(const PassPart& part) {
    const auto work = [&](const Pair& pair) {
      const int64_t rows = std::min(row_step_, row_count_ - pair.row * row_step_);
      const int64_t columns = std::min(column_step_, column_count_ - pair.column * column_step_);
      return static_cast<double>(rows) * static_cast<double>(columns) *
             (symmetric_ && pair.row == pair.column ? 0.5 : 1.0);
    };
    double total = 0, before = 0;
    for (const Pair& pair : pairs_) total += work(pair);
    std::erase_if(pairs_, [&](const Pair& pair) {
      const int64_t found = part_of_work(before, work(pair), total, part.num_parts);
      before += work(pair);
      return found != part.part;
    });
  }

  template <class Visit>
  void visit_blocks(const Pair& pair, const ThreadPool& pool, const Visit& visit) const {
    const int64_t row_end = std::min((pair.row + 1) * row_step_, row_count_);
    const int64_t column_end = std::min((pair.column + 1) * column_step_, column_count_);
    for (int64_t row = pair.row * row_step_; row < row_end; row += kMaxBlockRows) {
      for (int64_t column = pair.column * column_step_; column < column_end; column += kMaxBlockColumns) {
        const Block block{row, std::min(row + kMaxBlockRows, row_end), column,
                          std::min(column + kMaxBlockColumns, column_end)};
        if (symmetric_ && block.column_end - 1 <= row) continue;  // visited as (column, row)
        if (pool.cancelled()) return;
        visit(block);
      }
    }
  }

  bool symmetric_;
  int64_t row_count_, column_count_, row_step_, column_step_, row_groups_, column_groups_;
  std::vector<Pair> pairs_;
};

}  // namespace hardmine::cpu
