// Which blocks a schedule visits, which of them concurrently, and in which order each row meets the others.

#include "cpu/engine/pair_schedule.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/check.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

// Around the block step, with even and odd numbers of groups, and beyond 64 groups, where groups get longer.
constexpr int64_t kSizes[] = {0, 1, 2, 95, 96, 97, 191, 192, 193, 289, 481, 1000, 6143, 6144, 6145, 12289};

// A cell is kBlockStep rows or columns. Blocks and groups of blocks begin and end at cell boundaries.
constexpr int64_t kStep = cpu::kBlockStep;
int64_t cells(int64_t count) { return (count + kStep - 1) / kStep; }

using Corners = std::array<int64_t, 4>;  // of a block

struct Course {
  std::vector<int> visits;                        // of every pair of cells
  std::vector<std::vector<Corners>> row, column;  // the blocks that each cell was in, in order; symmetric: row alone
  bool sound = true, alone = true, known = true;  // blocks are as promised; nobody else was there; pool exist
};

bool is_sound(const cpu::Block& block, int64_t rows, int64_t columns, bool symmetric) {
  const auto fits = [](int64_t begin, int64_t end, int64_t limit, int64_t count) {
    return begin >= 0 && begin < end && end <= count && end - begin <= limit && begin % kStep == 0 &&
           (end % kStep == 0 || end == count);
  };
  return fits(block.row_begin, block.row_end, cpu::kMaxBlockRows, rows) &&
         fits(block.column_begin, block.column_end, cpu::kMaxBlockColumns, columns) &&
         // Kept scores have a place per kMaxBlockColumns columns.
         block.column_begin / cpu::kMaxBlockColumns == (block.column_end - 1) / cpu::kMaxBlockColumns &&
         // At least one pair must be neither (i, i) nor visited as (j, i) elsewhere.
         !(symmetric && block.column_end - 1 <= block.row_begin);
}

cpu::PairSchedule schedule_of(int64_t rows, int64_t columns, bool symmetric) {
  return {rows, columns, symmetric ? cpu::ScheduleShape::kSymmetric : cpu::ScheduleShape::kRectangular};
}

Course run(int64_t rows, int64_t columns, bool symmetric, const cpu::ThreadPool& pool, int64_t threads) {
  const cpu::PairSchedule schedule = schedule_of(rows, columns, symmetric);
  std::vector<std::atomic<int>> visits(cells(rows) * cells(columns));
  Course course{{},
                std::vector<std::vector<Corners>>(cells(rows)),
                std::vector<std::vector<Corners>>(symmetric ? 0 : cells(columns))};
  std::vector<std::atomic<bool>> row_busy(cells(rows)), column_busy(symmetric ? 0 : cells(columns));
  std::atomic<bool> sound{true}, alone{true}, known{true};
  schedule.run(pool, threads, [&](int64_t worker, const cpu::Block& block) {
    if (worker < 0 || worker >= threads) known = false;
    if (!is_sound(block, rows, columns, symmetric)) {
      sound = false;
      return;
    }
    const int64_t row = block.row_begin / kStep, row_end = cells(block.row_end);
    const int64_t column = block.column_begin / kStep, column_end = cells(block.column_end);
    const auto each_cell = [&](const auto& use) {
      for (int64_t r = row; r < row_end; ++r) use(row_busy[r], course.row[r]);
      for (int64_t c = column; c < column_end; ++c) {
        if (!symmetric) use(column_busy[c], course.column[c]);
        if (symmetric && (c < row || c >= row_end)) use(row_busy[c], course.row[c]);
      }
    };
    each_cell([&](std::atomic<bool>& busy, std::vector<Corners>& blocks) {
      // Relaxed, because the schedule itself must make earlier writes visible.
      if (busy.exchange(true, std::memory_order_relaxed)) alone = false;
      blocks.push_back({block.row_begin, block.row_end, block.column_begin, block.column_end});
    });
    for (int64_t r = row; r < row_end; ++r)
      for (int64_t c = column; c < column_end; ++c)
        visits[r * cells(columns) + c].fetch_add(1, std::memory_order_relaxed);
    if ((row + 3 * column) % 32 == 0) std::this_thread::yield();  // sometimes let another thread run
    each_cell([&](std::atomic<bool>& busy, std::vector<Corners>&) { busy.store(false, std::memory_order_relaxed); });
  });
  course.visits.assign(visits.begin(), visits.end());
  course.sound = sound;
  course.alone = alone;
  course.known = known;
  return course;
}

void check_cover(const Course& course, int64_t rows, int64_t columns, bool symmetric) {
  CHECK(course.sound);
  for (int64_t r = 0; r < cells(rows); ++r) {
    for (int64_t c = 0; c < cells(columns); ++c) {
      const int visits = course.visits[r * cells(columns) + c];
      if (symmetric && c < r) {
        CHECK(visits <= 1);  // next to a wanted pair of cells; the engine skips such pairs
      } else {
        // A last cell of a single row has no pair within itself.
        CHECK(visits == 1 || (visits == 0 && symmetric && r == c && r * kStep == rows - 1));
      }
    }
  }
}

void check_schedules(cpu::ScheduleShape shape) {
  const bool symmetric = shape == cpu::ScheduleShape::kSymmetric;
  for (const int64_t rows : kSizes) {
    for (const int64_t columns : kSizes) {
      if (symmetric && columns != rows) continue;
      if (!symmetric && std::min(rows, columns) > 6000 && (rows != 6145 || columns != 6144)) continue;
      const auto say = [&](int64_t threads) {
        context = std::to_string(rows) + " x " + std::to_string(columns) + (symmetric ? " symmetric" : "") + ", " +
                  std::to_string(threads) + " threads";
      };
      say(1);
      const Course serial = run(rows, columns, symmetric, SerialPool(), 1);
      check_cover(serial, rows, columns, symmetric);
      const bool small = cells(rows) * cells(columns) < 4000;
      for (const int64_t threads : {2, 7}) {
        if (!small && !symmetric && threads == 2) continue;
        say(threads);
        const Course parallel = run(rows, columns, symmetric, ThreadedPool(threads), threads);
        CHECK(parallel.alone);
        CHECK(parallel.known);
        CHECK(parallel.visits == serial.visits);
        CHECK(parallel.row == serial.row);
        CHECK(parallel.column == serial.column);
      }
      say(64);
      const Course reverse = run(rows, columns, symmetric, ReversePool(), 64);
      CHECK(reverse.row == serial.row && reverse.column == serial.column);
    }
  }
}

}  // namespace

TEST(pair_schedule_rectangular_visits_every_pair_once) { check_schedules(cpu::ScheduleShape::kRectangular); }
TEST(pair_schedule_symmetric_visits_every_pair_once) { check_schedules(cpu::ScheduleShape::kSymmetric); }

TEST(pair_schedule_parts_divide_the_blocks_evenly) {
  for (const bool symmetric : {false, true}) {
    for (const int64_t rows : {1, 97, 1000, 6145}) {
      const int64_t columns = symmetric ? rows : rows + 500;
      const auto blocks_of = [&](const cpu::PassPart& part, double* pairs) {
        const cpu::PairSchedule schedule(
            rows, columns, symmetric ? cpu::ScheduleShape::kSymmetric : cpu::ScheduleShape::kRectangular, part);
        std::vector<std::vector<Corners>> found(3);
        schedule.run(ThreadedPool(3), 3, [&](int64_t worker, const cpu::Block& block) {
          found[worker].push_back({block.row_begin, block.row_end, block.column_begin, block.column_end});
        });
        std::vector<Corners> all;
        for (const auto& blocks : found) all.insert(all.end(), blocks.begin(), blocks.end());
        *pairs = 0;
        for (const auto& [row, row_end, column, column_end] : all)
          for (int64_t r = row; r < row_end; ++r)
            *pairs += static_cast<double>(column_end - std::clamp(symmetric ? r + 1 : column, column, column_end));
        return all;
      };
      double total = 0;
      std::vector<Corners> whole = blocks_of({}, &total);
      std::sort(whole.begin(), whole.end());
      for (const int64_t parts : {2, 3, 64, 5000}) {
        if (parts == 5000 && rows > 1000) continue;
        context = std::to_string(rows) + (symmetric ? " symmetric, " : " rows, ") + std::to_string(parts) + " parts";
        std::vector<Corners> all;
        double largest = 0;
        for (int64_t part = 0; part < parts; ++part) {
          double pairs = 0;
          const std::vector<Corners> blocks = blocks_of({part, parts}, &pairs);
          all.insert(all.end(), blocks.begin(), blocks.end());
          largest = std::max(largest, pairs);
        }
        std::sort(all.begin(), all.end());
        CHECK(all == whole);
        // One pair of groups more than the mean: groups of up to 2 kStep here.
        CHECK(largest <= total / static_cast<double>(parts) + 4 * kStep * kStep);
      }
    }
  }
}

// In a tournament each group plays at most once per round, and as many pairs play as possible.
TEST(pair_schedule_rounds_keep_all_groups_busy) {
  for (const bool symmetric : {false, true}) {
    for (const int64_t rows : {1, 2, 3, 8, 9, 64}) {
      for (const int64_t columns : {1, 2, 3, 8, 9, 64}) {
        if (symmetric && columns != rows) continue;
        context = std::to_string(rows) + " x " + std::to_string(columns) + (symmetric ? " symmetric" : "");
        std::vector<std::array<int64_t, 2>> pairs;
        schedule_of(rows * kStep, columns * kStep, symmetric)
            .run(SerialPool(), 1, [&](int64_t, const cpu::Block& block) {
              pairs.push_back({block.row_begin / kStep, block.column_begin / kStep});
            });
        // The pairs of a group with itself come first.
        for (int64_t g = 0; symmetric && g < rows; ++g) CHECK(pairs[g][0] == g && pairs[g][1] == g);
        const size_t first = symmetric ? rows : 0, round = symmetric ? rows / 2 : std::min(rows, columns);
        for (size_t begin = first; begin < pairs.size(); begin += round) {
          std::vector<bool> row_plays(rows, false), column_plays(columns, false);
          for (size_t p = begin; p < begin + round; ++p) {
            CHECK(!row_plays[pairs[p][0]]);
            row_plays[pairs[p][0]] = true;
            std::vector<bool>& plays = symmetric ? row_plays : column_plays;
            CHECK(!plays[pairs[p][1]]);
            plays[pairs[p][1]] = true;
          }
        }
      }
    }
  }
}

// Each visit waits for the others, so that on any machine they meet if the schedule allows it.
TEST(pair_schedule_disjoint_pairs_run_concurrently) {
  for (const bool symmetric : {false, true}) {
    context = symmetric ? "symmetric" : "rows and columns";
    const int64_t threads = 4, count = 8 * kStep;
    std::atomic<int64_t> inside{0}, together{0};
    schedule_of(count, count, symmetric).run(ThreadedPool(threads), threads, [&](int64_t, const cpu::Block&) {
      ++inside;
      // Near the end some threads wait for their groups, so only the maximum number of concurrent visits counts.
      for (int spins = 0; spins < 2000 && inside < threads && together < threads; ++spins) std::this_thread::yield();
      for (int64_t limit = together, now = inside; limit < now && !together.compare_exchange_weak(limit, now);) {
      }
      --inside;
    });
    CHECK_EQ(together.load(), threads);
  }
}

// The visits that wait for the groups of the one that throws go on, and end.
TEST(pair_schedule_with_throwing_visit_ends_and_rethrows) {
  for (const bool symmetric : {false, true}) {
    for (const auto& pool : parallel_pools()) {
      context = (symmetric ? "symmetric, " : "rows and columns, ") + std::to_string(pool->count()) + " threads";
      std::string message = "nothing was thrown";
      try {
        schedule_of(8 * kStep, 8 * kStep, symmetric).run(*pool, pool->count(), [](int64_t, const cpu::Block& block) {
          if (block.row_begin == 0) throw std::runtime_error("visit");
        });
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      CHECK_EQ(message, "visit");
    }
  }
}
