// Which blocks a pass has, and how they are divided into parts.

#include "cpu/engine/pass_blocks.h"

#include <cmath>
#include <string>
#include <vector>

#include "support/check.h"
#include "support/names.h"
#include "support/samples.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr int64_t kParts[] = {1, 2, 3, 5, 64, 1000};
constexpr int64_t kSizes[] = {1, 2, 95, 96, 97, 288, 289, 577, 1000};

cpu::SortedRows<float> sorted(const Batch<float>& batch) {
  return {batch.view(), batch.depth, nullptr, nullptr, cpu::PackFor::kNothing, SerialPool()};
}

// Calls body(rows, columns, symmetric, kinds) for many passes.
template <class Body>
void for_each_pass(const Body& body) {
  for (const int64_t count : kSizes) {
    for (const Labels labels : kLabels) {
      for (const auto& [symmetric, same_class, other_class] : all_flags<3>()) {
        if (!same_class && !other_class) continue;
        Random random(count);
        const Batch<float> row_batch(Values::kReals, labels, count, 1, random);
        const Batch<float> column_batch(Values::kReals, labels, count + 40, 1, random);
        const cpu::SortedRows<float> rows = sorted(row_batch), others = sorted(column_batch);
        context = std::to_string(count) + " rows, labels " + name_of(labels) +
                  text_of({{"symmetric", symmetric}, {"same class", same_class}, {"other class", other_class}});
        body(rows, symmetric ? rows : others, symmetric, cpu::PassKinds{same_class, other_class});
      }
    }
  }
}

}  // namespace

TEST(pass_blocks_any_number_of_parts_visit_each_wanted_pair_once) {
  for_each_pass([&](const auto& rows, const auto& columns, bool symmetric, const cpu::PassKinds& kinds) {
    const cpu::PassBlocks<float> blocks(rows, columns, symmetric, kinds);
    for (const int64_t parts : kParts) {
      std::vector<int> visits(rows.count() * columns.count(), 0);
      for (int64_t part = 0; part < parts; ++part) {
        const cpu::BlockRange range = blocks.range({part, parts});
        for (int64_t i = range.begin; i < range.end; ++i) {
          const cpu::Block block = blocks.at(i);
          if (!blocks.has_pairs(block)) continue;
          for (int64_t r = block.row_begin; r < block.row_end; ++r)
            for (int64_t c = block.column_begin; c < block.column_end; ++c) ++visits[r * columns.count() + c];
        }
      }
      for (int64_t r = 0; r < rows.count(); ++r) {
        for (int64_t c = symmetric ? r + 1 : 0; c < columns.count(); ++c) {
          const bool same = rows.label()[r] == columns.label()[c];
          const int found = visits[r * columns.count() + c];
          if (found > 1 || (found == 0 && (same ? kinds.same_class : kinds.other_class))) {
            CHECK_EQ(found, 1);
            return;
          }
        }
      }
    }
  });
}

TEST(pass_blocks_parts_of_a_large_pass_have_equal_work) {
  Random random(3);
  // In the last pass, half the pairs are of the same class, and not wanted.
  for (const int64_t class_size : {2, 50, 4500}) {
    Batch<float> batch(Values::kReals, Labels::kRandom, 9000, 1, random);
    for (int64_t i = 0; i < batch.count; ++i) batch.label[i] = i / class_size;
    const cpu::SortedRows<float> rows = sorted(batch);
    const cpu::PassBlocks<float> blocks(rows, rows, true, {.same_class = class_size == 50, .other_class = true});
    for (const int64_t parts : {2, 3, 16}) {
      context = std::to_string(parts) + " parts, classes of " + std::to_string(class_size);
      double total = 0, largest = 0;
      for (int64_t part = 0; part < parts; ++part) {
        double pairs = 0;
        const cpu::BlockRange range = blocks.range({part, parts});
        for (int64_t i = range.begin; i < range.end; ++i) {
          const cpu::Block block = blocks.at(i);
          if (!blocks.has_pairs(block)) continue;
          for (int64_t r = block.row_begin; r < block.row_end; ++r)
            pairs += static_cast<double>(std::max<int64_t>(0, block.column_end - std::max(block.column_begin, r + 1)));
        }
        total += pairs;
        largest = std::max(largest, pairs);
      }
      CHECK(total > 1e7);
      // One block more than the mean.
      CHECK(largest <= total / static_cast<double>(parts) + 96 * 288);
    }
  }
}

TEST(pass_blocks_one_part_has_all_blocks) {
  Random random(1);
  const Batch<float> batch(Values::kReals, Labels::kRandom, 500, 1, random);
  const cpu::SortedRows<float> rows = sorted(batch);
  const cpu::PassBlocks<float> blocks(rows, rows, true, {.same_class = true, .other_class = true});
  CHECK_EQ(blocks.range({}).begin, 0);
  CHECK_EQ(blocks.range({}).end, blocks.count());
  CHECK_EQ(blocks.count(), 6 * 2);
}
