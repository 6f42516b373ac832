// The batch-all triplet loss and its gradient compared with the triple loop.

#include "cuda/kernels/batch_all_triplet_loss.h"

#include <cmath>
#include <limits>

#include "host_workspace.h"
#include "mma_policies.h"
#include "support/batch_all_oracle.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

template <class acc_t>
struct Run {
  acc_t loss = acc_t(kNaN);
  int64_t active = -1, total = -1;
  std::vector<acc_t> grad, grad_refs;

  bool same_as(const Run& other) const {
    return same_bits(std::vector<acc_t>{loss}, std::vector<acc_t>{other.loss}) && active == other.active &&
           total == other.total && same_bits(grad, other.grad) && same_bits(grad_refs, other.grad_refs);
  }
};

template <class Way>
Run<typename Way::acc_t> run(const BatchAllProblem<typename Way::acc_t>& p, const BatchAllChunks& parts = {},
                             const Running& running = kRunnings[0], bool want_x = true, bool want_refs = true) {
  using Scalar = typename Way::Scalar;
  using acc_t = typename Way::acc_t;
  const WithOrder order(running.order);
  const auto rounded = [](const std::vector<acc_t>& of) {
    return converted<Scalar>(std::vector<double>(of.begin(), of.end()));
  };
  const std::vector<Scalar> x = rounded(p.batch.x), y = rounded(p.others().x);
  Run<acc_t> out;
  acc_t nothing[1];
  // NaN shows an element that is not written.
  if (want_x) out.grad.assign(x.size(), acc_t(kNaN));
  if (want_refs && p.refs) out.grad_refs.assign(y.size(), acc_t(kNaN));
  const auto data = [&](std::vector<acc_t>& grad, bool wanted) {
    return !wanted ? nullptr : grad.empty() ? nothing : grad.data();
  };
  const LabeledMatrix<Scalar> refs{y.data(), p.others().label.data(), p.others().count};
  HostWorkspace workspace;
  batch_all<typename Way::MmaPolicy, Scalar>(
      p.rule, {x.data(), p.batch.label.data(), p.batch.count}, p.refs ? &refs : nullptr, p.batch.depth, p.table(),
      {&out.loss, &out.active, &out.total, data(out.grad, want_x), data(out.grad_refs, want_refs && p.refs)}, parts,
      workspace, Stream{running.max_blocks});
  return out;
}

// Rows rounded to the type of the embeddings.
template <class Way>
void round_rows(std::vector<typename Way::acc_t>& x) {
  using Scalar = typename Way::Scalar;
  const std::vector<Scalar> rounded = converted<Scalar>(std::vector<double>(x.begin(), x.end()));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<typename Way::acc_t>(to_acc(rounded[i]));
}

// The rounding error of the gradient's factors. With TF32, rows are rounded too.
template <class MmaPolicy>
double rounding() {
  using Packed = typename MmaPolicy::Packed;
  if (!MmaPolicy::kTensorCores) return 0;
  return std::is_same_v<Packed, BFloat16> ? 0x1p-8 : 0x1p-9;
}

template <class Way>
BatchAllProblem<typename Way::acc_t> problem(const std::vector<int64_t>& sizes, const BatchAllCase& c,
                                             const std::vector<int64_t>& ref_sizes = {}) {
  using acc_t = typename Way::acc_t;
  Random random(sizes.size() + c.depth);
  const std::vector<int64_t> label = classes_of(sizes, random);
  BatchAllProblem<acc_t> p{c.rule(), c.batch<acc_t>(label, random), {}, {}};
  round_rows<Way>(p.batch.x);
  if (!ref_sizes.empty()) {
    const std::vector<int64_t> ref_label = classes_of(ref_sizes, random);
    p.refs = c.batch<acc_t>(ref_label, random);
    round_rows<Way>(p.refs->x);
  }
  if (c.has_table && !label.empty()) p.make_table(random);
  return p;
}

constexpr Similarity kCosine = Similarity::kCosine, kEuclidean = Similarity::kEuclidean;
constexpr auto kMeanActive = BatchAllReduction::kMeanActive, kSum = BatchAllReduction::kSum;

// The cases of a policy, the first one exact. Inner products serve squared distances of unit rows. Squared differences
// serve the rest; for them short rows are exact as well. If rows are rounded, only exact inputs can be checked.
template <class Way>
std::vector<BatchAllCase> cases_of_way() {
  if constexpr (Way::MmaPolicy::kSquaredDifferences) {
    return {{.similarity = kEuclidean, .squared = true, .exact = true},
            {.similarity = kEuclidean, .squared = true},
            {.similarity = kEuclidean, .squared = false},
            {.similarity = kCosine, .squared = false}};
  } else if constexpr (std::is_same_v<typename Way::MmaPolicy, Tf32Products>) {
    return {{.similarity = kCosine, .squared = true, .exact = true}};
  } else {
    return {{.similarity = kCosine, .squared = true, .exact = true}, {.similarity = kCosine, .squared = true}};
  }
}

// What every case of a policy may have.
struct Common {
  BatchAllReduction reduction;
  double margin;
  bool has_table;
};
Deck<Common> deal_common() {
  constexpr BatchAllReduction reductions[] = {BatchAllReduction::kMean, kMeanActive, kSum};
  constexpr double margins[] = {0, -0.5, 0.25, 2};
  return Deck(cases_of<Common>(reductions, margins, kEither));
}

template <class Way>
void check_problem(const std::string& what, const BatchAllProblem<typename Way::acc_t>& p, bool exact,
                   const BatchAllChunks& parts, Coverage& coverage) {
  using acc_t = typename Way::acc_t;
  context = what + text_of(p.rule, p.batch.count, p.batch.depth, !p.margins.empty()) +
            text_of({{"refs", p.refs.has_value()}, {"exact", exact}});
  const Run<acc_t> first = run<Way>(p, parts);
  check_batch_all(p, BatchAllFound<acc_t>{first.loss, first.active, first.total, first.grad, first.grad_refs}, exact,
                  coverage, rounding<typename Way::MmaPolicy>());
}

template <class Use>
void for_ways(const Use& use) {
  for_products(use);
  for_squared_differences(use);
}

template <class Way>
void check_sizes(const std::string& name, const std::vector<int64_t>& sizes, int64_t depth, Deck<Common>& deck,
                 const BatchAllChunks& parts = {}, const std::vector<int64_t>& ref_sizes = {}) {
  for (BatchAllCase c : cases_of_way<Way>()) {
    const auto& [reduction, margin, has_table] = deck.next();
    c.reduction = reduction;
    c.margin = margin;
    c.has_table = has_table;
    c.depth = depth;
    Coverage coverage;
    check_problem<Way>(name + ", ", problem<Way>(sizes, c, ref_sizes), c.exact, parts, coverage);
  }
}

}  // namespace

TEST(batch_all_without_triplets_is_zero) {
  for_ways([](auto way) {
    using Way = decltype(way);
    for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{}, {1}, {5}, {1, 1, 1}}) {
      for (BatchAllCase c : cases_of_way<Way>()) {
        c.has_table = true;
        const auto p = problem<Way>(sizes, c);
        context = std::string(way.name) + ", " + c.describe(p.batch.count);
        const auto found = run<Way>(p);
        CHECK_EQ(found.loss, 0);
        CHECK_EQ(found.active, 0);
        CHECK_EQ(found.total, 0);
        for (const auto grad : found.grad) CHECK_EQ(grad, 0);
      }
    }
  });
}

TEST(batch_all_any_class_sizes_match_triple_loop) {
  Deck<Common> deck = deal_common();
  for_ways([&](auto way) {
    using Way = decltype(way);
    check_sizes<Way>(way.name, {1, 2}, 1, deck);
    check_sizes<Way>(way.name, {2, 1, 3, 8, 5}, 5, deck);
    check_sizes<Way>(way.name, {33, 2, 32, 1}, 17, deck);
  });
}

TEST(batch_all_refs_of_any_class_sizes_match_triple_loop) {
  Deck<Common> deck = deal_common();
  for_ways([&](auto way) {
    using Way = decltype(way);
    check_sizes<Way>(way.name, {1}, 1, deck, {}, {1, 1});
    check_sizes<Way>(way.name, {2, 1, 3}, 5, deck, {}, {4, 2, 3, 8, 5});
    check_sizes<Way>(way.name, {33, 2, 32, 1}, 17, deck, {}, {3, 0, 20});
  });
}

TEST(batch_all_without_refs_or_anchors_is_zero) {
  for_ways([](auto way) {
    using Way = decltype(way);
    for (const bool is_empty : {false, true}) {
      BatchAllCase c = cases_of_way<Way>()[0];
      c.has_table = true;
      auto p = problem<Way>({3, 4}, c);
      p.refs = p.batch;
      p.ref_rows = p.rows;
      Batch<typename Way::acc_t>& empty = is_empty ? p.batch : *p.refs;
      empty.x.clear();
      empty.label.clear();
      empty.count = 0;
      context = std::string(way.name) + (is_empty ? ", no anchors" : ", no refs");
      const auto found = run<Way>(p);
      CHECK_EQ(found.loss, 0);
      CHECK_EQ(found.total, 0);
      CHECK_EQ(found.grad.size() + found.grad_refs.size(), size_t{21});
      for (const auto grad : found.grad) CHECK_EQ(grad, 0);
      for (const auto grad : found.grad_refs) CHECK_EQ(grad, 0);
    }
  });
}

// Points 0, 1 and 3 on a line; the last one has another class. 1/2 (|a - p|^2 - |a - n|^2 + margin) is (margin - 8) / 2
// for anchor 0 and (margin - 3) / 2 for anchor 1.
TEST(batch_all_three_points_matches_hand_worked_values) {
  using Way = Way<DoubleSquaredDifferences, double>;
  auto p =
      problem<Way>({2, 1}, {.similarity = kEuclidean, .squared = true, .reduction = kSum, .margin = 9, .depth = 1});
  p.batch.x = {0, 1, 3};
  p.batch.label = {7, 7, -1};
  const Run<double> both = run<Way>(p);
  CHECK_EQ(both.loss, 3.5);
  CHECK_EQ(both.active, 2);
  CHECK_EQ(both.total, 2);
  const double want[] = {-2 + 3, 2 + 2, -3 - 2};
  for (int64_t e = 0; e < 3; ++e) CHECK_EQ(both.grad[e], want[e]);
  p.rule.reduction = kMeanActive;
  p.rule.margin = 8;  // 1/2 (1 - 9 + 8) = 0 is not active
  const Run<double> one = run<Way>(p);
  CHECK_EQ(one.loss, 2.5);
  CHECK_EQ(one.active, 1);
}

TEST(batch_all_several_chunks_match_triple_loop) {
  // 150 rows: strips of 128 and 22; up to 80 positives, 32 at a time.
  const BatchAllChunks parts{128, 32};
  Deck<Common> deck = deal_common();
  check_sizes<Way<FloatSquaredDifferences, float>>("strips", {81, 2, 34, 33}, 3, deck, parts);
  check_sizes<Way<FloatProducts, float>>("strips", {81, 2, 34, 33}, 3, deck, parts);
  check_sizes<Way<DoubleProducts, double>>("strips", {81, 2, 34, 33}, 16, deck, parts);
  check_sizes<Way<Float16Products, Float16>>("strips", {65, 2, 50, 33}, 16, deck, parts);
  check_sizes<Way<Bfloat16Products, BFloat16>>("strips", {65, 2, 50, 33}, 16, deck, parts);
  const std::vector<int64_t> refs = {40, 33, 2, 1};
  check_sizes<Way<FloatSquaredDifferences, float>>("strips, refs", {81, 2, 34, 33}, 3, deck, parts, refs);
  check_sizes<Way<DoubleProducts, double>>("strips, refs", {81, 2, 34, 33}, 16, deck, parts, refs);
  check_sizes<Way<Float16Products, Float16>>("strips, refs", {65, 2, 50, 33}, 16, deck, parts, refs);
}

TEST(batch_all_any_order_gives_same_bits) {
  const auto check = [](auto way, const std::vector<int64_t>& ref_sizes = {}) {
    using Way = decltype(way);
    BatchAllCase c = cases_of_way<Way>().back();
    c.reduction = kMeanActive;
    c.has_table = true;
    c.depth = 6;
    const auto p = problem<Way>({40, 3, 30, 1, 60}, c, ref_sizes);
    const BatchAllChunks parts{128, 16};
    const auto first = run<Way>(p, parts);
    CHECK(first.active > 0);
    for (const Running& running : kRunnings) {
      context = std::string(way.name) + ", most blocks " + std::to_string(running.max_blocks);
      CHECK(run<Way>(p, parts, running).same_as(first));
    }
    for (const auto& [want_x, want_refs] : all_flags<2>()) {
      auto part = run<Way>(p, parts, kRunnings[0], want_x, want_refs);
      if (!want_x) part.grad = first.grad;
      if (!want_refs) part.grad_refs = first.grad_refs;
      CHECK(part.same_as(first));
    }
  };
  check(Way<FloatSquaredDifferences, float>{"squared differences of float"});
  check(Way<Bfloat16Products, BFloat16>{"bfloat16"});
  check(Way<Float16Products, Float16>{"float16"});
  const std::vector<int64_t> refs = {20, 33, 9, 70, 2};
  check(Way<FloatSquaredDifferences, float>{"squared differences of float, refs"}, refs);
  check(Way<Float16Products, Float16>{"float16, refs"}, refs);
}

// |a - b|^2 / 2 = 1 - s holds only for unit rows. The gradients of shorter rows are 0.
TEST(batch_all_rows_below_minimum_norm_match_triple_loop) {
  using Products = Way<DoubleProducts, double>;
  using Squares = Way<DoubleSquaredDifferences, double>;
  for (const bool squared : {true, false}) {
    auto p = problem<Products>(
        {7, 6, 7}, {.similarity = kCosine, .squared = squared, .reduction = kMeanActive, .margin = 0.25, .depth = 9});
    for (int64_t k = 0; k < 9; ++k) {
      p.batch.row(3)[k] *= 1e-13;
      p.batch.row(11)[k] = 0;
    }
    for (const bool has_refs : {false, true}) {
      if (has_refs) p.refs = p.batch;
      p.ref_rows = p.rows;
      Coverage coverage;
      squared ? check_problem<Products>("short, ", p, false, {}, coverage)
              : check_problem<Squares>("short, ", p, false, {}, coverage);
      CHECK(coverage.active > 100);
    }
  }
}

// Far from the origin, sums of products would lose the digits of differences.
TEST(batch_all_rows_far_from_origin_keep_digits) {
  for (const std::vector<int64_t>& ref_sizes : {std::vector<int64_t>{}, {4, 8, 9}}) {
    auto p = problem<Way<FloatSquaredDifferences, float>>({7, 6, 7},
                                                          {.similarity = kEuclidean,
                                                           .squared = true,
                                                           .reduction = kMeanActive,
                                                           .exact = true,
                                                           .margin = 0.25,
                                                           .depth = 5},
                                                          ref_sizes);
    for (float& x : p.batch.x) x += 1 << 20;
    if (p.refs)
      for (float& x : p.refs->x) x += 1 << 20;
    Coverage coverage;
    check_problem<Way<FloatSquaredDifferences, float>>("far, ", p, true, {}, coverage);
  }
}

TEST(batch_all_nonfinite_row_gives_nan) {
  for_ways([](auto way) {
    using Way = decltype(way);
    for (const double bad : {kNaN, kInfinity, -kInfinity}) {
      for (BatchAllCase c : cases_of_way<Way>()) {
        c.depth = 4;
        const auto finite = problem<Way>({3, 4, 2}, c);
        auto p = finite;
        p.batch.x[17] = static_cast<typename Way::acc_t>(bad);
        context = std::string(way.name) + ", " + std::to_string(bad) + ", " + c.describe(9);
        const auto found = run<Way>(p);
        CHECK(std::isnan(found.loss));
        CHECK_EQ(found.active, 0);
        CHECK_EQ(found.total, 0);
        for (const auto grad : found.grad) CHECK(std::isnan(grad));
        // The same row among the refs
        auto q = finite;
        q.refs = p.batch;
        const auto with_refs = run<Way>(q);
        CHECK(std::isnan(with_refs.loss));
        for (const auto grad : with_refs.grad) CHECK(std::isnan(grad));
        for (const auto grad : with_refs.grad_refs) CHECK(std::isnan(grad));
      }
    }
  });
}

TEST(batch_all_invalid_margins_give_nan) {
  using Way = Way<FloatSquaredDifferences, float>;
  const BatchAllCase c{.similarity = kEuclidean, .squared = true, .exact = true, .has_table = true, .depth = 4};
  const auto p = problem<Way>({3, 4, 1}, c);
  CHECK_EQ(p.table_rows, 5);
  const auto is_nan = [](const Run<float>& found) {
    bool all = std::isnan(found.loss);
    for (const float grad : found.grad) all = all && std::isnan(grad);
    return all;
  };
  CHECK(!is_nan(run<Way>(p)));
  for (int64_t a = 0; a < 5; ++a)
    for (int64_t n = 0; n < 5; ++n) {
      // Only margins between classes of the batch are read, including the diagonal and anchors without a positive.
      const auto in_use = [&](int64_t row) { return std::find(p.rows.begin(), p.rows.end(), row) != p.rows.end(); };
      auto q = p;
      q.margins[a * 5 + n] = (a + n) % 2 ? std::numeric_limits<float>::infinity() : static_cast<float>(kNaN);
      context = "margin " + std::to_string(a) + ", " + std::to_string(n);
      CHECK_EQ(is_nan(run<Way>(q)), in_use(a) && in_use(n));
    }
  // With refs, the table's rows are read for anchors, and its columns for refs.
  auto with_refs = problem<Way>({3, 4}, c, {2, 0, 3});
  CHECK(!is_nan(run<Way>(with_refs)));
  for (int64_t a = 0; a < with_refs.table_rows; ++a)
    for (int64_t n = 0; n < with_refs.table_rows; ++n) {
      const auto has = [](const std::vector<int64_t>& rows, int64_t row) {
        return std::find(rows.begin(), rows.end(), row) != rows.end();
      };
      auto q = with_refs;
      q.margins[a * q.table_rows + n] = static_cast<float>(kNaN);
      context = "margin with refs " + std::to_string(a) + ", " + std::to_string(n);
      CHECK_EQ(is_nan(run<Way>(q)), has(q.rows, a) && has(q.ref_rows, n));
    }
  for (const int64_t row : {int64_t{-1}, int64_t{5}, std::numeric_limits<int64_t>::min()}) {
    auto q = p;
    q.rows[2] = row;
    context = "row " + std::to_string(row);
    CHECK(is_nan(run<Way>(q)));
    auto r = with_refs;
    r.ref_rows[1] = row;
    CHECK(is_nan(run<Way>(r)));
  }
}

TEST(scale_gradient_multiplies_by_factor) {
  const float grad[] = {1, -2, 0, 4}, factor = -0.5f;
  float out[4];
  scale_gradient<float>(grad, &factor, 4, out, Stream{});
  for (int i = 0; i < 4; ++i) CHECK_EQ(out[i], grad[i] * factor);
}
