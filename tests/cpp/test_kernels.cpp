// The kernels of the chosen SIMD target: row kernels, packing, and select_block over whole passes.

#include "support/check.h"
#include "support/names.h"
#include "support/packed_batch.h"
#include "support/selection_oracle.h"
#include "support/simd_targets.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

// Element (row r, depth k) of groups of g rows is at [r / g][k][r % g]. Rows that pad the last group are zero.
template <class T>
void check_pack(int64_t group, int64_t count, int64_t depth, bool scaled) {
  const Kernels<T>& kernel = active_kernels<T>();
  Random random(count + depth);
  const int64_t sources = count + 3;
  const std::vector<T> x = make_rows<T>(Values::kReals, sources, depth, random);
  std::vector<Index> order(sources);
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  order.resize(count);
  std::vector<T> scale(sources);
  for (T& s : scale) s = T(0.5 + random.unit());  // a quotient has one rounding on every target

  const int64_t padded = round_up_to(count, group);
  std::vector<T> packed(padded * depth, T(99));
  // In two parts, as two threads would pack. The first must not write the memory of the second.
  const int64_t middle = padded / group / 2 * group;
  const T* norm = scaled ? scale.data() : nullptr;
  kernel.pack(x.data(), depth, order.data(), norm, count, 0, middle, group, packed.data());
  for (int64_t e = middle * depth; e < padded * depth; ++e) CHECK_EQ(packed[e], T(99));
  kernel.pack(x.data(), depth, order.data(), norm, count, middle, count, group, packed.data());
  for (int64_t r = 0; r < padded; ++r) {
    for (int64_t k = 0; k < depth; ++k) {
      const T want = r < count ? x[order[r] * depth + k] / (scaled ? scale[order[r]] : T(1)) : T(0);
      CHECK_EQ(packed[(r / group * depth + k) * group + r % group], want);
    }
  }
}

// How many rows got a candidate from a pass, and how many did not.
struct PassCoverage {
  int64_t with_candidate = 0, without = 0;
};

struct PassCase {
  Labels labels = Labels::kRandom;
  bool euclidean = false;
  int64_t row_block = 24, column_panels = 1;
};

// One pass of select_block against a double loop, with every combination of its flags and ranges.
template <class T>
void check_pass(PassCoverage& coverage, const Batch<T>& row_batch, const Batch<T>& column_batch, const PassCase& c) {
  const Kernels<T>& kernel = active_kernels<T>();
  const bool symmetric = &row_batch == &column_batch, euclidean = c.euclidean;
  const PackedBatch<T> rows(kernel, row_batch), columns(kernel, column_batch);
  const std::vector<double> s =
      similarity_matrix(euclidean ? Similarity::kEuclidean : Similarity::kDot, row_batch, column_batch);
  const T inf = std::numeric_limits<T>::infinity();
  const KeyRange<T> ranges[] = {{-inf, kBelowRange, inf}, {T(0), kAtLowerBound, T(2)}, {T(-6), kBelowRange, T(-1)}};
  const auto number = [](auto value) { return std::to_string(value); };
  for (const auto& [same_class, largest_wins, bounded] : all_flags<3>()) {
    for (const KeyRange<T>& range : ranges) {
      context = "rows " + number(row_batch.count) + ", columns " + number(column_batch.count) + ", depth " +
                number(row_batch.depth) + ", labels " + name_of(c.labels) + ", blocks of " + number(c.row_block) +
                " rows and " + number(c.column_panels) + " panels, start " + number(range.start_key) +
                text_of({{"symmetric", symmetric},
                         {"euclidean", euclidean},
                         {"same class", same_class},
                         {"largest wins", largest_wins},
                         {"bounded", bounded}});
      const cpu::PairwiseParams<T> pass{rows.view(), columns.view(), row_batch.depth, symmetric, euclidean, false};
      const PassResult<T> got =
          run_pass(kernel, pass, same_class, largest_wins, range, bounded, c.row_block, c.column_panels);
      for (int64_t r = 0; r < rows.count; ++r) {
        const Index i = rows.id[r];
        T key = range.start_key;
        Index index = range.start_index;
        for (Index j = 0; j < column_batch.count; ++j) {
          if ((row_batch.label[i] == column_batch.label[j]) != same_class || (symmetric && i == j)) continue;
          const double similarity = s[i * column_batch.count + j];
          const T tile = T(euclidean ? std::round(similarity * similarity) : similarity);
          const T candidate = largest_wins ? tile : -tile;
          if (bounded && candidate > range.upper) continue;
          if (candidate > key || (candidate == key && j < index)) {
            key = candidate;
            index = j;
          }
        }
        CHECK_EQ(got.key[r], key);
        CHECK_EQ(got.index[r], index);
        ++(index == range.start_index ? coverage.without : coverage.with_candidate);
      }
    }
  }
}

// Compares pair_score with the scores in tiles, bit for bit, on rows whose products round. If j is the only same-class
// column, the score of (i, j) is the best key of row i.
template <class T>
void check_pair_score(int64_t depth, bool euclidean, bool scaled) {
  const Kernels<T>& kernel = active_kernels<T>();
  context = "depth " + std::to_string(depth) + text_of({{"euclidean", euclidean}, {"scaled", scaled}});
  Random random(depth);
  const Batch<T> row_batch(Values::kReals, Labels::kOneClass, 13, depth, random);
  Batch<T> column_batch(Values::kReals, Labels::kOneClass, 37, depth, random);
  std::vector<T> row_norm(row_batch.count), column_norm(column_batch.count);
  kernel.row_norms(row_batch.x.data(), row_batch.count, depth, row_norm.data());
  kernel.row_norms(column_batch.x.data(), column_batch.count, depth, column_norm.data());
  const PackedBatch<T> rows(kernel, row_batch, scaled ? row_norm.data() : nullptr);
  for (int64_t j = 0; j < column_batch.count; j += 4) {
    for (int64_t c = 0; c < column_batch.count; ++c) column_batch.label[c] = row_batch.label[0] + c - j;
    const PackedBatch<T> columns(kernel, column_batch, scaled ? column_norm.data() : nullptr);
    const cpu::PairwiseParams<T> pass{rows.view(), columns.view(), depth, false, euclidean, false};
    const PassResult<T> tile = run_pass(kernel, pass, true, true, unlimited_range<T>(), false, 24, 1);
    for (int64_t i = 0; i < row_batch.count; ++i) {
      const T score = kernel.pair_score(row_batch.x.data() + i * depth, column_batch.x.data() + j * depth,
                                        scaled ? row_norm.data() + i : nullptr,
                                        scaled ? column_norm.data() + j : nullptr, depth, euclidean, false);
      CHECK_EQ(tile.index[i], j);
      CHECK_EQ(score, tile.key[i]);
    }
  }
}

}  // namespace

TEST(kernels_with_forced_target_are_used) { check_forced_target(); }

// Sums of integers are exact, so a kernel must equal a plain loop bit for bit.
TYPED_TEST(row_kernels_integers_are_exact, T) {
  const Kernels<T>& kernel = active_kernels<T>();
  for (const int64_t depth : kDepths) {
    context = "depth " + std::to_string(depth);
    Random random(depth);
    const std::vector<T> x = make_rows<T>(Values::kIntegers, 1, depth, random);
    const std::vector<T> y = make_rows<T>(Values::kIntegers, 1, depth, random);
    const std::vector<T> acc = make_rows<T>(Values::kIntegers, 1, depth, random);
    double dot = 0, squares = 0, sq_dist = 0;
    for (int64_t k = 0; k < depth; ++k) {
      dot += double(x[k]) * y[k];
      squares += double(x[k]) * x[k];
      sq_dist += (double(x[k]) - y[k]) * (double(x[k]) - y[k]);
    }
    CHECK_EQ(kernel.dot(x.data(), y.data(), depth), T(dot));
    CHECK_EQ(kernel.distance(x.data(), y.data(), depth), T(std::sqrt(sq_dist)));
    CHECK_EQ(kernel.distance(x.data(), x.data(), depth), T(0));
    T norm = T(-1);
    CHECK(kernel.row_norms(x.data(), 1, depth, &norm));
    CHECK_EQ(norm, T(std::sqrt(squares)));

    std::vector<T> sum(depth), no_sum(depth, T(1)), difference = acc, projected = acc;
    const T* const rows[] = {x.data(), y.data(), acc.data()};
    const T weights[] = {T(2), T(3), T(-1)};
    kernel.weighted_sum(rows, weights, 3, depth, sum.data());
    kernel.weighted_sum(rows, weights, 0, depth, no_sum.data());
    kernel.add_scaled_difference(difference.data(), T(3), y.data(), x.data(), depth);
    kernel.project(projected.data(), x.data(), T(2), T(6), depth);
    for (int64_t k = 0; k < depth; ++k) {
      CHECK_EQ(sum[k], 2 * x[k] + 3 * y[k] - acc[k]);
      CHECK_EQ(no_sum[k], T(0));
      CHECK_EQ(difference[k], acc[k] + 3 * (y[k] - x[k]));
      CHECK_EQ(projected[k], (acc[k] - x[k] / 2 * 6) / 2);
    }
  }
}

TYPED_TEST(row_norms_nonfinite_element_is_reported, T) {
  const Kernels<T>& kernel = active_kernels<T>();
  const T huge = std::numeric_limits<T>::max(), inf = std::numeric_limits<T>::infinity();
  for (const int64_t depth : {1, 16, 17, 33}) {
    std::vector<T> norm(3), x(3 * depth, T(1));
    CHECK(kernel.row_norms(x.data(), 3, depth, norm.data()));
    for (int64_t at = 0; at < 3 * depth; ++at) {
      context = "depth " + std::to_string(depth) + ", element " + std::to_string(at);
      for (const T bad : {inf, -inf, std::numeric_limits<T>::quiet_NaN()}) {
        x[at] = bad;
        CHECK(!kernel.row_norms(x.data(), 3, depth, norm.data()));
      }
      x[at] = huge;  // finite, but its square and so the norm overflow
      CHECK(!kernel.row_norms(x.data(), 3, depth, norm.data()));
      x[at] = T(1);
    }
  }
  CHECK(kernel.row_norms(nullptr, 0, 4, nullptr));
}

TYPED_TEST(pack_interleaves_scales_and_pads, T) {
  const Kernels<T>& kernel = active_kernels<T>();
  for (const int64_t group : {kernel.micro_tile_rows, kernel.panel_columns}) {
    for (const int64_t count : {1, 5, 6, 7, 12, 13, 31, 32, 33, 97}) {
      for (const int64_t depth : {1, 2, 15, 16, 17, 33}) {
        for (const bool scaled : {false, true}) {
          context = "group " + std::to_string(group) + ", count " + std::to_string(count) + ", depth " +
                    std::to_string(depth) + ", scaled " + std::to_string(scaled);
          check_pack<T>(group, count, depth, scaled);
        }
      }
    }
  }
}

TYPED_TEST(select_block_any_shape_matches_double_loop, T) {
  PassCoverage coverage;
  constexpr int64_t row_blocks[] = {24, cpu::kMaxBlockRows}, panels[] = {1, 2, 3, 4};
  Deck<PassCase> cases(cases_of<PassCase>(kLabels, kEither, row_blocks, panels), sizeof(T));
  for (const int64_t count : kCounts) {
    Random random(count);
    const auto batch = [&](const PassCase& c, int64_t rows) {
      return Batch<T>(Values::kIntegers, c.labels, rows, 3, random);
    };
    const PassCase among_rows = cases.next();
    const Batch<T> rows = batch(among_rows, count);
    check_pass(coverage, rows, rows, among_rows);
    for (const int64_t columns : {int64_t{1}, int64_t{13}, int64_t{33}, count + 1}) {
      const PassCase& c = cases.next();
      check_pass(coverage, batch(c, count), batch(c, columns), c);
    }
  }
  for (const int64_t depth : kDepths) {
    for (const bool euclidean : kEither) {
      Random random(depth);
      const Batch<T> rows(Values::kIntegers, Labels::kRandom, 35, depth, random);
      check_pass(coverage, rows, rows, {.euclidean = euclidean});
    }
  }
  CHECK(coverage.with_candidate > 5000);
  CHECK(coverage.without > 5000);
}

TYPED_TEST(pair_score_equals_score_of_tile, T) {
  for (const int64_t depth : {1, 2, 15, 16, 17, 31, 255, 256, 257, 272, 513, 600})
    for (const auto& [euclidean, scaled] : all_flags<2>()) check_pair_score<T>(depth, euclidean, scaled);
}
