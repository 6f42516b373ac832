// The block kernels of every SIMD target of this CPU compared with the scalar ones, bit for bit.

#include <numeric>

#include "support/block_cases.h"
#include "support/check.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

template <class T>
bool is_wanted(const cpu::PairwiseParams<T>& pass, cpu::PairKind kind, int64_t row, int64_t column) {
  if (column >= pass.columns.count || (pass.symmetric && column <= row)) return false;
  const bool same = pass.rows.label[row] == pass.columns.label[column];
  return kind == cpu::PairKind::kAny || same == (kind == cpu::PairKind::kSameClass);
}

template <class T>
void compact(const cpu::Reservoirs<T>& reservoirs, int64_t row) {
  Neighbor<T>* candidates = reservoirs.candidates + row * reservoirs.capacity;
  std::sort(candidates, candidates + reservoirs.size[row],
            [](const auto& a, const auto& b) { return beats(a.key, a.index, b.key, b.index); });
  if (reservoirs.size[row] < reservoirs.k) return;
  reservoirs.size[row] = static_cast<int32_t>(reservoirs.k);
  reservoirs.worst_key[row] = candidates[reservoirs.k - 1].key;
  reservoirs.worst_index[row] = candidates[reservoirs.k - 1].index;
}

}  // namespace

TYPED_TEST(fill_block_any_target_gives_same_bits, T) {
  for_each_case<T>([](Case<T>& c) {
    for (const cpu::PairKind kind : {cpu::PairKind::kSameClass, cpu::PairKind::kOtherClass, cpu::PairKind::kAny}) {
      for (const cpu::Block& block : c.blocks) {
        const std::vector<T> want = filled(c, c.scalar, kind, block);
        CHECK(same_bits(filled(c, c.simd, kind, block), want));
        bool right = true;
        for (int64_t i = 0; i < block.rows(); ++i)
          for (int64_t k = 0; k < round_up_to(block.columns(), kLine); ++k)
            right &= std::isnan(want[i * cpu::kMaxBlockColumns + k]) !=
                     is_wanted(c.scalar_pass, kind, block.row_begin + i, block.column_begin + k);
        CHECK(right);
      }
    }
  });
}

TYPED_TEST(exponential_sums_any_target_gives_same_bits, T) {
  for_each_case<T>([](Case<T>& c) {
    for (const auto& [for_columns, one_shift] : all_flags<2>()) {
      const std::vector<T> row_shift = c.numbers(c.rows(), 1, -1, 1),
                           column_shift = c.numbers(c.columns(), kLine, -1, 1);
      const auto sums_of = [&](const Kernels<T>& kernel) {
        std::vector<double> row(c.rows(), 0.5), column(c.columns(), 0.25);
        const cpu::ExponentialSums<T> sums{T(14.4),
                                           T(1),
                                           one_shift ? nullptr : row_shift.data(),
                                           one_shift ? nullptr : column_shift.data(),
                                           row.data(),
                                           for_columns ? column.data() : nullptr};
        for (const cpu::Block& block : c.blocks)
          kernel.exponential_sums(c.pass_of(kernel), block,
                                  filled(c, c.scalar, cpu::PairKind::kOtherClass, block).data(), sums);
        row.insert(row.end(), column.begin(), column.end());
        return row;
      };
      CHECK(same_bits(sums_of(c.simd), sums_of(c.scalar)));
    }
  });
}

TYPED_TEST(softplus_sums_any_target_gives_same_bits, T) {
  int64_t counted = 0;
  for_each_case<T>([&](Case<T>& c) {
    for (const bool for_columns : {false, true}) {
      const std::vector<T> row_shift = c.numbers(c.rows(), 1, -1, 1), column_shift = c.numbers(c.columns(), 16, -1, 1),
                           row_log = c.numbers(c.rows(), 1, -9, 9), column_log = c.numbers(c.columns(), 16, -9, 9);
      const auto sums_of = [&](const Kernels<T>& kernel, std::vector<int64_t>& count) {
        std::vector<double> sum(c.rows(), 0.5), slope(c.rows(), 0.0), column_sum(c.columns(), 0.25),
            column_slope(c.columns(), 0.0);
        count.assign(c.rows(), 0);
        std::vector<int64_t> column_count(c.columns(), 0);
        cpu::SoftplusSums<T> sums{};
        sums.inv_temperature = T(10);
        sums.limit = T(c.scalar_pass.euclidean ? -0.5 : 0.5);
        sums.row_shift = row_shift.data();
        sums.row_log_sum = row_log.data();
        sums.row_sum = sum.data();
        sums.row_slope = slope.data();
        sums.row_count = count.data();
        if (for_columns) {
          sums.column_shift = column_shift.data();
          sums.column_log_sum = column_log.data();
          sums.column_sum = column_sum.data();
          sums.column_slope = column_slope.data();
          sums.column_count = column_count.data();
        }
        for (const cpu::Block& block : c.blocks)
          kernel.softplus_sums(c.pass_of(kernel), block, filled(c, c.scalar, cpu::PairKind::kSameClass, block).data(),
                               sums);
        for (const std::vector<double>* more : {&slope, &column_sum, &column_slope})
          sum.insert(sum.end(), more->begin(), more->end());
        count.insert(count.end(), column_count.begin(), column_count.end());
        return sum;
      };
      std::vector<int64_t> got_count, want_count;
      CHECK(same_bits(sums_of(c.simd, got_count), sums_of(c.scalar, want_count)));
      CHECK(got_count == want_count);
      counted += std::accumulate(want_count.begin(), want_count.end(), int64_t{0});
    }
  });
  CHECK(counted > 1000);
}

TYPED_TEST(tuplet_weights_any_target_gives_same_bits, T) {
  for_each_case<T>([](Case<T>& c) {
    const bool symmetric = c.scalar_pass.symmetric;
    for (const auto& [all, one_shift] : all_flags<2>()) {
      // Kernels read rows one by one and columns in whole vectors. Columns are anchors only without refs.
      const int64_t step = symmetric ? kLine : 1;
      const std::vector<T> negative_weight = c.numbers(c.rows(), step, -1, 1), shift = c.numbers(c.rows(), step, 0, 1),
                           positive_weight = c.numbers(c.rows(), step, -1, 1),
                           log_sum = c.numbers(c.rows(), step, -9, 9);
      std::vector<Index> positive(c.rows());
      for (Index& index : positive) index = static_cast<Index>(c.random.below(c.columns()));
      cpu::TupletWeights<T> weights{};
      weights.log2e_over_temperature = T(14.4);
      weights.inv_temperature = T(10);
      weights.shift = T(1);
      weights.limit = T(c.scalar_pass.euclidean ? -0.5 : 0.5);
      weights.one_shift = one_shift;
      weights.rows = {negative_weight.data(), shift.data(), positive_weight.data(), log_sum.data(),
                      all ? nullptr : positive.data()};
      if (symmetric) weights.columns = weights.rows;
      const auto weigh = [&](const Kernels<T>& kernel) {
        std::vector<T> all_cells;
        for (const cpu::Block& block : c.blocks) {
          std::vector<T> numbers = filled_for_weights(c, kernel, cpu::PairKind::kAny, block);
          kernel.tuplet_weights(c.pass_of(kernel), block, weights, numbers.data());
          const std::vector<T> cells = inside(kernel, block, numbers);
          all_cells.insert(all_cells.end(), cells.begin(), cells.end());
        }
        return all_cells;
      };
      const std::vector<T> want = weigh(c.scalar);
      CHECK(same_bits(weigh(c.simd), want));
      CHECK(std::none_of(want.begin(), want.end(), [](T weight) { return std::isnan(weight); }));
    }
  });
}

// Arrays of rows are read in whole vectors here. The maxima of blocks are close together or far apart.
TYPED_TEST(logsumexp_update_any_target_gives_same_bits, T) {
  int64_t added = 0;
  for_each_case<T>([&](Case<T>& c) {
    const bool symmetric = c.scalar_pass.symmetric;
    const int64_t padded_rows = round_up_to(c.rows(), cpu::kBlockStep),
                  padded_columns = round_up_to(c.columns(), cpu::kBlockStep);
    for (const auto& [for_columns, offsets, steep, excludes] : all_flags<4>()) {
      const auto sums_of = [&, for_columns = for_columns, offsets = offsets, steep = steep,
                            excludes = excludes](const Kernels<T>& kernel) {
        const T nothing = -std::numeric_limits<T>::infinity();
        std::vector<T> shift(padded_rows, nothing), column_shift(padded_columns, nothing);
        std::vector<double> sum(c.rows(), 0.0), offset(c.rows(), 0.0), positive(c.rows(), 0.0),
            column_sum(c.columns(), 0.0), column_offset(c.columns(), 0.0);
        std::vector<int64_t> count(c.rows(), 0);
        cpu::LogSumExpUpdate<T> update{};
        update.log2e_over_temperature = T(steep ? 800 : 14.4);
        update.excludes_positives = excludes;
        update.rows = {shift.data(), sum.data(), offsets ? offset.data() : nullptr};
        update.row_positives = {positive.data(), count.data()};
        if (symmetric) {
          update.columns = update.rows;
          update.column_positives = update.row_positives;
        } else if (for_columns) {
          update.columns = {column_shift.data(), column_sum.data(), offsets ? column_offset.data() : nullptr};
        }
        for (const cpu::Block& block : c.blocks)
          kernel.logsumexp_update(c.pass_of(kernel), block, update,
                                  filled(c, c.scalar, cpu::PairKind::kAny, block).data());
        for (const std::vector<double>* more : {&offset, &positive, &column_sum, &column_offset})
          sum.insert(sum.end(), more->begin(), more->end());
        for (const std::vector<T>* shifts : {&shift, &column_shift})
          for (const T value : *shifts) sum.push_back(std::isinf(value) ? 77.0 : static_cast<double>(value));
        for (const int64_t positives : count) sum.push_back(static_cast<double>(positives));
        return sum;
      };
      const std::vector<double> want = sums_of(c.scalar);
      CHECK(same_bits(sums_of(c.simd), want));
      CHECK(std::none_of(want.begin(), want.end(), [](double value) { return std::isnan(value); }));
      added += std::count_if(want.begin(), want.begin() + c.rows(), [](double value) { return value > 0; });
    }
  });
  CHECK(added > 1000);
}

TYPED_TEST(logsumexp_weights_any_target_gives_same_bits, T) {
  for_each_case<T>([](Case<T>& c) {
    const bool symmetric = c.scalar_pass.symmetric;
    for (const auto& [for_columns, positives, excludes, far] : all_flags<4>()) {
      // Shifts are at least the scores, as after a forward pass, and far apart or not.
      const double high = far ? 60 : 2;
      std::vector<T> weight = c.numbers(c.rows(), cpu::kBlockStep, -1, 1),
                     shift = c.numbers(c.rows(), cpu::kBlockStep, 1, high),
                     positive = c.numbers(c.rows(), cpu::kBlockStep, -1, 1),
                     column_weight = c.numbers(c.columns(), cpu::kBlockStep, -1, 1),
                     column_shift = c.numbers(c.columns(), cpu::kBlockStep, 1, high);
      for (size_t i = 0; i < shift.size(); ++i)
        if (i % 5 == 0 || static_cast<int64_t>(i) >= c.rows()) {
          shift[i] = std::numeric_limits<T>::infinity();  // without a pair
          weight[i] = 0;
        }
      cpu::LogSumExpWeights<T> weights{};
      weights.log2e_over_temperature = T(14.4);
      weights.excludes_positives = excludes;
      weights.positives = positives;
      weights.rows = {weight.data(), shift.data(), positives ? positive.data() : nullptr};
      if (symmetric) {
        weights.columns = weights.rows;
      } else if (for_columns) {
        weights.columns = {column_weight.data(), column_shift.data(), nullptr};
      }
      const auto weigh = [&](const Kernels<T>& kernel) {
        std::vector<T> all_cells;
        for (const cpu::Block& block : c.blocks) {
          std::vector<T> numbers = filled_for_weights(c, kernel, cpu::PairKind::kAny, block);
          kernel.logsumexp_weights(c.pass_of(kernel), block, weights, numbers.data());
          const std::vector<T> cells = inside(kernel, block, numbers);
          all_cells.insert(all_cells.end(), cells.begin(), cells.end());
        }
        return all_cells;
      };
      const std::vector<T> want = weigh(c.scalar);
      CHECK(same_bits(weigh(c.simd), want));
      CHECK(std::none_of(want.begin(), want.end(), [](T value) { return std::isnan(value); }));
    }
  });
}

TYPED_TEST(sigmoid_any_target_gives_same_bits, T) {
  for_each_case<T>([](Case<T>& c) {
    if (c.scalar_pass.symmetric) return;  // pairs of queries and keys only
    const std::vector<T> row_weight = c.numbers(c.rows(), 1, -1, 1);
    const cpu::SigmoidWeights<T> weights{T(9), T(-3), row_weight.data()};
    const auto results_of = [&](const Kernels<T>& kernel) {
      std::vector<double> value(c.rows(), 0.0), by_scale(c.rows(), 0.0), by_bias(c.rows(), 0.0), cells;
      const cpu::SigmoidRowSums<T> sums{T(9), T(-3), value.data(), by_scale.data(), by_bias.data()};
      for (const cpu::Block& block : c.blocks) {
        std::vector<T> scores = filled(c, c.scalar, cpu::PairKind::kAny, block);
        kernel.sigmoid_sums(c.pass_of(kernel), block, sums, nullptr, scores.data());
        std::vector<T> with_sums = filled_for_weights(c, kernel, cpu::PairKind::kAny, block);
        kernel.sigmoid_sums(c.pass_of(kernel), block, sums, row_weight.data(), with_sums.data());
        std::vector<T> numbers = filled_for_weights(c, kernel, cpu::PairKind::kAny, block);
        kernel.sigmoid_weights(c.pass_of(kernel), block, weights, numbers.data());
        CHECK(same_bits(inside(kernel, block, with_sums), inside(kernel, block, numbers)));
        for (const T cell : inside(kernel, block, numbers)) cells.push_back(static_cast<double>(cell));
      }
      value.insert(value.end(), by_scale.begin(), by_scale.end());
      value.insert(value.end(), by_bias.begin(), by_bias.end());
      value.insert(value.end(), cells.begin(), cells.end());
      return value;
    };
    const std::vector<double> want = results_of(c.scalar);
    CHECK(same_bits(results_of(c.simd), want));
    CHECK(std::none_of(want.begin(), want.end(), [](double number) { return std::isnan(number); }));
    CHECK(std::all_of(want.begin(), want.begin() + c.rows(), [](double number) { return number > 0; }));
  });
}

// Weights times the rows of the other side, from packing to the sums. Also compared with a plain loop.
TYPED_TEST(gradient_gemm_any_target_gives_same_bits, T) {
  for_each_target<T>([](const BuiltTarget& target, const Kernels<T>& scalar, const Kernels<T>& simd) {
    for (const int64_t depth : {1, 7, 16, 33, 65}) {
      for (const cpu::Block& block : {cpu::Block{0, 1, 0, 1}, cpu::Block{0, 96, 0, 192}, cpu::Block{96, 127, 192, 289},
                                      cpu::Block{0, 95, 96, 97}}) {
        for (const auto& [transposed, scaled, differences, banded] : all_flags<4>()) {
          context =
              target.name + ", depth " + std::to_string(depth) + ", rows to " + std::to_string(block.row_end) +
              ", columns to " + std::to_string(block.column_end) +
              text_of(
                  {{"transposed", transposed}, {"scaled", scaled}, {"differences", differences}, {"banded", banded}});
          Random random(depth + transposed + 2 * scaled + 4 * differences);
          const int64_t from = transposed ? block.row_end : block.column_end;
          const int64_t to = transposed ? block.column_end : block.row_end;
          const int64_t from_begin = transposed ? block.row_begin : block.column_begin;
          const int64_t to_begin = transposed ? block.column_begin : block.row_begin;
          const std::vector<T> x = rough_rows<T>(from, depth, false, random);
          const std::vector<T> own = rough_rows<T>(to, depth, false, random);
          std::vector<T> norm(from);
          for (T& value : norm) value = T(0.5 + random.unit());
          std::vector<Index> order(from);
          std::iota(order.begin(), order.end(), 0);
          random.shuffle(order);
          std::vector<T> cells(block.rows() * block.columns());
          for (T& weight : cells) weight = random.below(3) ? T(2 * random.unit() - 1) : T(0);
          // As pairs of small classes: the kernel skips the zeros around them.
          for (int64_t i = 0; i < block.rows() && banded; ++i)
            for (int64_t k = 0; k < block.columns(); ++k)
              if (k < i || k > i + 4) cells[i * block.columns() + k] = T(0);

          const auto sums = [&](const Kernels<T>& kernel) {
            const int64_t panel = kernel.panel_columns, panels = round_up_to(depth, panel) / panel;
            const int64_t group = kernel.micro_tile_rows, to_padded = round_up_to(to, group);
            std::vector<T> value(panels * from * panel, T(7)), grad(panels * to_padded * panel, T(0.5));
            for (const auto& [begin, end] : {std::pair{int64_t{0}, from / 2}, {from / 2, from}})
              kernel.pack_depth(x.data(), depth, order.data(), scaled ? norm.data() : nullptr, from, begin, end,
                                value.data());
            // A gradient is read in whole groups of rows, and so are its rows.
            std::vector<T> own_value(panels * to_padded * panel, T(0));
            std::vector<Index> in_order(to);
            std::iota(in_order.begin(), in_order.end(), 0);
            kernel.pack_depth(own.data(), depth, in_order.data(), nullptr, to_padded, 0, to, own_value.data());
            // Zeros where the kernel reads whole groups of rows, or of columns if transposed.
            const int64_t lines = transposed ? block.rows() : round_up_to(block.rows(), group);
            const int64_t width = transposed ? round_up_to(block.columns(), group) : block.columns();
            std::vector<T> weights((lines - 1) * cpu::kMaxBlockColumns + width, T(0));
            for (int64_t i = 0; i < block.rows(); ++i)
              for (int64_t k = 0; k < block.columns(); ++k)
                weights[i * cpu::kMaxBlockColumns + k] = cells[i * block.columns() + k];
            kernel.gradient_gemm(block, weights.data(), transposed, depth, value.data() + from_begin * panel, from,
                                 differences ? own_value.data() + to_begin * panel : nullptr,
                                 grad.data() + to_begin * panel, to_padded);
            std::vector<T> out(to * depth);
            for (int64_t r = 0; r < to; ++r)
              for (int64_t k = 0; k < depth; ++k)
                out[r * depth + k] = grad[k / panel * to_padded * panel + r * panel + k % panel];
            return out;
          };
          const std::vector<T> want = sums(scalar);
          CHECK(same_bits(sums(simd), want));
          for (int64_t r = 0; r < to && depth < 10; ++r) {
            for (int64_t k = 0; k < depth; ++k) {
              double sum = 0.5, size = 0.5;
              for (int64_t j = from_begin; j < from && r >= to_begin; ++j) {
                const int64_t i = r - to_begin, o = j - from_begin;
                const double weight = transposed ? cells[o * block.columns() + i] : cells[i * block.columns() + o];
                const double y = double(x[order[j] * depth + k]) / (scaled ? norm[order[j]] : 1) -
                                 (differences ? own[r * depth + k] : 0);
                sum += weight * y;
                size += std::fabs(weight) * (std::fabs(y) + 2 * std::fabs(own[r * depth + k]));
              }
              CHECK_NEAR(want[r * depth + k], sum, 8 * std::numeric_limits<T>::epsilon() * size);
            }
          }
        }
      }
    }
  });
}

TYPED_TEST(knn_block_any_target_gives_same_bits, T) {
  for_each_case<T>([](Case<T>& c) {
    for (const int64_t k : {1, 6}) {
      // Targets see the candidates in different orders, so the final neighbors are compared.
      const auto best = [&](const Kernels<T>& kernel, std::vector<Index>& indices) {
        const int64_t capacity = k + 3;
        std::vector<Neighbor<T>> pool(c.rows() * capacity);
        std::vector<int32_t> size(c.rows(), 0);
        const int64_t padded = c.scalar_pass.symmetric ? round_up_to(c.rows(), kernel.panel_columns) : c.rows();
        std::vector<T> worst_key(padded, -std::numeric_limits<T>::infinity()), keys;
        std::vector<Index> worst_index(c.rows(), kBelowRange);
        const cpu::Reservoirs<T> pools{
            k, capacity, pool.data(), size.data(), worst_key.data(), worst_index.data(), compact<T>};
        for (const cpu::Block& block : c.blocks) kernel.knn_block(c.pass_of(kernel), block, pools);
        for (int64_t i = 0; i < c.rows(); ++i) {
          compact(pools, i);
          for (int32_t n = 0; n < size[i]; ++n) {
            keys.push_back(pool[i * capacity + n].key);
            indices.push_back(pool[i * capacity + n].index);
          }
        }
        return keys;
      };
      std::vector<Index> got, want;
      CHECK(same_bits(best(c.simd, got), best(c.scalar, want)));
      CHECK(got == want);
      const int64_t candidates = c.columns() - c.scalar_pass.symmetric;
      CHECK_EQ(static_cast<int64_t>(want.size()), c.rows() * std::min(k, candidates));
    }
  });
}
