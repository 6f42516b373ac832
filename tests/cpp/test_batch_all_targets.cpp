// The block kernels of batch-all losses of every SIMD target of this CPU compared with the scalar ones, bit for bit.

#include "support/block_cases.h"
#include "support/check.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

// An arbitrary state of the batch-all pass. Its positives need not be similarities of any rows.
template <class T>
struct AnyBatchAll {
  std::vector<int64_t> first, class_begin;
  std::vector<int32_t> size, active, table_row, column_table_row;
  std::vector<T> positive, min_positive, ascending, margin_table;
  std::vector<double> sum_through, value;
  cpu::BatchAllState<T> state{};

  // `counted`: as after the negatives.
  AnyBatchAll(const cpu::PairwiseParams<T>& pass, bool squared, bool table, bool counted, uint64_t seed)
      : first(pass.rows.count), class_begin(pass.rows.count), size(pass.rows.count), min_positive(pass.rows.count) {
    Random random(seed);
    const int64_t count = pass.rows.count, columns = pass.columns.count;
    const int64_t* label = pass.columns.label;
    for (int64_t i = 0; i < count; ++i) {
      const auto range = std::equal_range(label, label + columns, pass.rows.label[i]);
      class_begin[i] = range.first - label;
      const int64_t end = range.second - label;
      first[i] = static_cast<int64_t>(positive.size());
      min_positive[i] = std::numeric_limits<T>::infinity();
      if (end - class_begin[i] < (pass.symmetric ? 2 : 1) || random.below(5) == 0)
        continue;  // an anchor of another chunk
      size[i] = static_cast<int32_t>(end - class_begin[i]);
      for (int64_t j = class_begin[i]; j < end; ++j) {
        const T v = T(pass.euclidean ? -random.unit() : 2 * random.unit() - 1);
        positive.push_back(pass.symmetric && j == i ? std::numeric_limits<T>::infinity() : v);
        min_positive[i] = std::min(min_positive[i], positive.back());
        active.push_back(counted ? static_cast<int32_t>(random.below(4)) : 0);
      }
      ascending = positive;
    }
    for (int64_t i = 0; i < count; ++i) {
      std::sort(ascending.begin() + first[i], ascending.begin() + first[i] + size[i]);
      double sum = 0;
      for (int32_t r = 0; r < size[i]; ++r) {
        sum += static_cast<double>(ascending[first[i] + r]);
        sum_through.push_back(sum);
      }
    }
    value.assign(count, 0.0);
    state.squared = squared;
    state.exact_half_margin = 0.1;
    state.half_margin = T(0.1);
    if (table) {
      state.table_rows = 3;
      for (int k = 0; k < 9; ++k) margin_table.push_back(T(random.unit()));
      for (int64_t i = 0; i < count; ++i) table_row.push_back(static_cast<int32_t>(random.below(3)));
      if (pass.symmetric) column_table_row = table_row;
      while (static_cast<int64_t>(column_table_row.size()) < columns)
        column_table_row.push_back(static_cast<int32_t>(random.below(3)));
      state.margin_table = margin_table.data();
      state.table_row = table_row.data();
      state.column_table_row = column_table_row.data();
    }
    state.first = first.data();
    state.size = size.data();
    state.class_begin = class_begin.data();
    state.positive = positive.data();
    state.min_positive = min_positive.data();
    state.ascending = ascending.data();
    state.sum_through = sum_through.data();
    state.active = active.data();
    state.value = value.data();
    state.need_weights = true;
  }
  bool same(const AnyBatchAll& other) const { return active == other.active && same_bits(value, other.value); }
};

template <class T>
void check_batch_all(bool negatives) {
  int64_t active = 0, weighed = 0, rows_of_long_lists = 0;
  for_each_case<T>([&](Case<T>& c) {
    for (const auto& [table, squared] : all_flags<2>()) {
      if (table && !negatives) continue;
      const auto weigh = [&](const Kernels<T>& kernel, AnyBatchAll<T>& any) {
        std::vector<T> all_cells;
        for (const cpu::Block& block : c.blocks) {
          const cpu::PairKind kind = negatives ? cpu::PairKind::kOtherClass : cpu::PairKind::kSameClass;
          std::vector<T> numbers = filled_for_weights(c, kernel, kind, block);
          std::vector<T> scratch((block.columns() - 1) * cpu::kMaxBlockRows + round_up_to(block.rows(), kLine), T(7));
          bool any_weight = true;
          if (negatives) {
            any_weight =
                kernel.batch_all_negatives(c.pass_of(kernel), block, any.state, numbers.data(), scratch.data());
          } else {
            kernel.batch_all_positives(c.pass_of(kernel), block, any.state, numbers.data());
          }
          all_cells.push_back(T(any_weight));
          if (!any_weight) continue;
          const std::vector<T> cells = inside(kernel, block, numbers);
          all_cells.insert(all_cells.end(), cells.begin(), cells.end());
        }
        return all_cells;
      };
      const uint64_t seed = c.random.bits();
      AnyBatchAll<T> got(c.scalar_pass, squared, table, !negatives, seed);
      AnyBatchAll<T> want(c.scalar_pass, squared, table, !negatives, seed);
      const std::vector<T> got_cells = weigh(c.simd, got), want_cells = weigh(c.scalar, want);
      CHECK(same_bits(got_cells, want_cells));
      CHECK(got.same(want));
      for (const T cell : want_cells) weighed += cell != T(0);
      for (const int32_t count : want.active) active += count;
      for (const int32_t size : want.size) rows_of_long_lists += size > cpu::kShortList;
    }
  });
  CHECK(active > 1000 && weighed > 1000 && rows_of_long_lists > 100);
}

}  // namespace

TYPED_TEST(batch_all_negatives_any_target_gives_same_bits, T) { check_batch_all<T>(true); }

TYPED_TEST(batch_all_positives_any_target_gives_same_bits, T) { check_batch_all<T>(false); }
