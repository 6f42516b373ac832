// The batch-all triplet loss and its gradient against the triple loop, and against finite differences.

#include "cpu/engine/batch_all_triplet_loss.h"

#include "support/batch_all_oracle.h"
#include "support/check.h"
#include "support/names.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

template <class T>
struct Run {
  cpu::BatchAllResult<T> result;
  std::vector<T> grad, grad_refs;

  Run(const BatchAllProblem<T>& p, const cpu::ThreadPool& pool, bool want_x = true, bool want_refs = true) {
    // NaN shows an element that is not written.
    if (want_x) grad.assign(p.batch.x.size(), T(kNaN));
    if (want_refs && p.refs) grad_refs.assign(p.refs->x.size(), T(kNaN));
    T nothing[1];
    const auto data = [&](std::vector<T>& of, bool wanted) {
      return !wanted ? nullptr : of.empty() ? nothing : of.data();
    };
    const LabeledMatrix<T> refs = p.others().view();
    result = cpu::batch_all<T>(p.rule, p.batch.view(), p.refs ? &refs : nullptr, p.batch.depth, p.table(), pool,
                               data(grad, want_x), data(grad_refs, want_refs && p.refs));
  }
};

template <class T>
void check_run(const BatchAllProblem<T>& p, const Run<T>& run, bool exact, Coverage& coverage) {
  CHECK(run.result.finite);
  check_batch_all(p, BatchAllFound<T>{run.result.loss, run.result.active, run.result.total, run.grad, run.grad_refs},
                  exact, coverage);
}

std::vector<BatchAllCase> all_cases() {
  constexpr Similarity similarities[] = {Similarity::kCosine, Similarity::kEuclidean};
  constexpr BatchAllReduction reductions[] = {BatchAllReduction::kMean, BatchAllReduction::kMeanActive,
                                              BatchAllReduction::kSum};
  constexpr double margins[] = {0, -0.5, 0.25, 2};
  std::vector<BatchAllCase> cases =
      cases_of<BatchAllCase>(similarities, kEither, reductions, kEither, kEither, margins, kLabels, kShortDepths);
  std::erase_if(cases, [](const BatchAllCase& c) { return c.exact && !c.squared; });
  return cases;
}

// refs < 0: none.
template <class T>
void check_case(const BatchAllCase& c, int64_t count, int64_t refs, Coverage& coverage) {
  Random random(1000 * count + c.depth);
  BatchAllProblem<T> p{c.rule(), c.batch<T>(count, random), {}, {}};
  if (refs >= 0) p.refs = c.batch<T>(refs, random);
  if (random.below(2)) fill_zero_rows(p);
  if (c.has_table && count > 0) p.make_table(random);
  context = c.describe(count, refs);
  check_run(p, Run<T>(p, SerialPool()), c.exact, coverage);
}

// Classes of chosen sizes: around the length from which positives are sorted, and so large that the positives of all
// anchors exceed one chunk of the engine.
template <class T>
void check_classes(const std::vector<int64_t>& sizes, int64_t depth, const std::vector<int64_t>& ref_sizes = {}) {
  constexpr Similarity kCosine = Similarity::kCosine, kEuclidean = Similarity::kEuclidean;
  constexpr auto kMean = BatchAllReduction::kMean, kMeanActive = BatchAllReduction::kMeanActive;
  for (BatchAllCase c :
       {BatchAllCase{.similarity = kEuclidean, .squared = true, .reduction = kMean, .exact = true},
        BatchAllCase{.similarity = kEuclidean, .squared = false, .reduction = kMeanActive, .has_table = true},
        BatchAllCase{.similarity = kCosine, .squared = true, .reduction = BatchAllReduction::kSum, .exact = true},
        BatchAllCase{.similarity = kCosine, .squared = true, .reduction = kMean},
        BatchAllCase{
            .similarity = kEuclidean, .squared = true, .reduction = kMeanActive, .exact = true, .has_table = true},
        BatchAllCase{.similarity = kEuclidean, .squared = false, .reduction = BatchAllReduction::kSum}}) {
    c.depth = depth;
    Random random(sizes.size() + depth);
    const std::vector<int64_t> label = classes_of(sizes, random);
    BatchAllProblem<T> p{c.rule(), c.batch<T>(label, random), {}, {}};
    if (!ref_sizes.empty()) {
      const std::vector<int64_t> ref_label = classes_of(ref_sizes, random);
      p.refs = c.batch<T>(ref_label, random);
    }
    if (c.similarity == kCosine) fill_zero_rows(p);
    if (c.has_table) p.make_table(random);
    context =
        "classes of " + std::to_string(sizes[0]) + ", ..., " + c.describe(p.batch.count, p.refs ? p.refs->count : -1);
    Coverage coverage;
    const Run<T> run(p, SerialPool());
    check_run(p, run, c.exact, coverage);
    CHECK(coverage.active > coverage.total / 50);
    for (const auto& [want_x, want_refs] : all_flags<2>()) {
      const Run<T> part(p, SerialPool(), want_x, want_refs);
      CHECK_EQ(part.result.loss, run.result.loss);
      CHECK_EQ(part.result.active, run.result.active);
      if (want_x) CHECK(same_bits(part.grad, run.grad));
      if (want_refs) CHECK(same_bits(part.grad_refs, run.grad_refs));
    }
  }
}

template <class T>
bool same_run(const Run<T>& a, const Run<T>& b) {
  return a.result.loss == b.result.loss && a.result.active == b.result.active && a.result.total == b.result.total &&
         same_bits(a.grad, b.grad) && same_bits(a.grad_refs, b.grad_refs);
}

// refs < 0: none.
template <class T>
void check_workers(const std::vector<int64_t>& sizes, const BatchAllCase& c, int64_t refs = -1) {
  Random random(5);
  const std::vector<int64_t> label = classes_of(sizes, random);
  BatchAllProblem<T> p{c.rule(), c.batch<T>(label, random), {}, {}};
  if (refs >= 0) {
    p.refs = c.batch<T>(refs, random);
    for (int64_t& ref_label : p.refs->label) ref_label = label[random.below(p.batch.count)];
  }
  if (c.has_table) p.make_table(random);
  const Run<T> serial(p, SerialPool());
  const std::string what = c.describe(p.batch.count, refs);
  for (const int64_t threads : {2, 7}) {
    context = what + ", " + std::to_string(threads) + " threads";
    CHECK(same_run(Run<T>(p, ThreadedPool(threads)), serial));
  }
  context = what + ", reverse order";
  CHECK(same_run(Run<T>(p, ReversePool()), serial));
}

}  // namespace

TEST(batch_all_with_forced_target_runs_on_it) { check_forced_target(); }

// Points 0, 1 and 3 on a line; the last one has another class. 1/2 (|a - p|^2 - |a - n|^2 + margin) is (margin - 8) / 2
// for anchor 0 and (margin - 3) / 2 for anchor 1.
TEST(batch_all_three_points_matches_hand_worked_values) {
  for (const bool sorted : {true, false}) {
    Random random(1);
    BatchAllProblem<double> p{BatchAllRule{Similarity::kEuclidean, BatchAllReduction::kSum, true, 2},
                              Batch<double>(Values::kIntegers, Labels::kOneClass, 3, 1, *std::make_unique<Random>(1)),
                              {},
                              {}};
    p.batch.x = {0, 1, 3};
    p.batch.label = sorted ? std::vector<int64_t>{0, 0, 1} : std::vector<int64_t>{1, 1, 0};
    const Run<double> none(p, SerialPool());
    CHECK_EQ(none.result.loss, 0);
    CHECK_EQ(none.result.active, 0);
    CHECK_EQ(none.result.total, 2);
    for (const double grad : none.grad) CHECK_EQ(grad, 0);
    p.rule.margin = 9;
    const Run<double> both(p, SerialPool());
    CHECK_EQ(both.result.loss, 3.5);
    CHECK_EQ(both.result.active, 2);
    // The gradient of 1/2 |a - p|^2 is x_0 - x_1 = -1, twice. That of -1/2 |a - n|^2 is x_n - x_a.
    const double want[] = {-2 + 3, 2 + 2, -3 - 2};
    for (int64_t e = 0; e < 3; ++e) CHECK_NEAR(both.grad[e], want[e], 1e-15);
    p.rule.reduction = BatchAllReduction::kMeanActive;
    p.rule.margin = 8;  // 1/2 (1 - 9 + 8) = 0 is not active
    const Run<double> one(p, SerialPool());
    CHECK_EQ(one.result.loss, 2.5);
    CHECK_EQ(one.result.active, 1);
  }
}

// |a - b|^2 / 2 = 1 - s holds only for unit rows. Here anchor 0 has 1/2 (1 - 0 + 0.2) and anchor 1 has 1/2 (1 - 1 +
// 0.2).
TEST(batch_all_zero_rows_have_length_zero) {
  Random random(1);
  BatchAllProblem<float> p{BatchAllRule{}, Batch<float>(Values::kIntegers, Labels::kOneClass, 3, 2, random), {}, {}};
  p.rule.reduction = BatchAllReduction::kSum;
  p.batch.x = {1, 0, 0, 0, 1, 0};
  p.batch.label = {0, 0, 1};
  CHECK_NEAR(Run<float>(p, SerialPool()).result.loss, 0.7, 1e-6);
}

// The gradient of a row below the minimum norm is 0, and 1 - s does not replace its squared distances.
TEST(batch_all_rows_below_minimum_norm_match_triple_loop) {
  for (const bool squared : {false, true}) {
    Random random(2);
    BatchAllProblem<double> p{BatchAllRule{}, Batch<double>(Values::kReals, Labels::kRandom, 20, 9, random), {}, {}};
    p.rule.squared = squared;
    for (int64_t k = 0; k < 9; ++k) p.batch.row(3)[k] *= 1e-13;
    context = text_of(p.rule, 20, 9, false);
    Coverage coverage;
    check_run(p, Run<double>(p, SerialPool()), false, coverage);
    CHECK(coverage.active > 100);
  }
}

TYPED_TEST(batch_all_any_count_rule_and_labels_matches_triple_loop, T) {
  Coverage coverage;
  Deck<BatchAllCase> cases(all_cases(), sizeof(T));
  for (const int64_t count : kEdges)
    for (int64_t n = 0; n < 40; ++n) check_case<T>(cases.next(), count, -1, coverage);
  CHECK(coverage.active > coverage.total / 8 && coverage.active < coverage.total - coverage.total / 8);
  CHECK(coverage.ties > 1000);
}

TYPED_TEST(batch_all_refs_any_count_rule_and_labels_matches_triple_loop, T) {
  Coverage coverage;
  Deck<BatchAllCase> cases(all_cases(), sizeof(T));
  for (const int64_t count : kEdges)
    for (const int64_t refs : {0, 1, 2, 5, 31, 33, 95, 97, 193})
      for (int64_t n = 0; n < 2; ++n) check_case<T>(cases.next(), count, refs, coverage);
  CHECK(coverage.active > coverage.total / 8 && coverage.active < coverage.total - coverage.total / 8);
  CHECK(coverage.ties > 1000);
}

// Points 0 and 2 on a line are anchors, and 0, 1, 3 are refs; the last one has another class. 1/2 (|a - p|^2 - |a -
// n|^2 + margin) with margin 9 is 1/2 (0 - 9 + 9) = 0 and 1/2 (1 - 9 + 9) for anchor 0: its own point is a positive.
// For anchor 2 it is 1/2 (4 - 1 + 9) and 1/2 (1 - 1 + 9).
TEST(batch_all_refs_match_hand_worked_values) {
  Random random(1);
  BatchAllProblem<double> p{BatchAllRule{Similarity::kEuclidean, BatchAllReduction::kSum, true, 9},
                            Batch<double>(Values::kIntegers, Labels::kOneClass, 2, 1, random),
                            {},
                            {}};
  p.batch.x = {0, 2};
  p.batch.label = {4, 4};
  p.refs = Batch<double>(Values::kIntegers, Labels::kOneClass, 3, 1, random);
  p.refs->x = {0, 1, 3};
  p.refs->label = {4, 4, 0};
  const Run<double> run(p, SerialPool());
  CHECK_EQ(run.result.loss, 0.5 + 6 + 4.5);
  CHECK_EQ(run.result.active, 3);
  CHECK_EQ(run.result.total, 4);
  // A triplet's gradient in a is x_n - x_p, in p x_p - x_a, in n x_a - x_n.
  const double want[] = {3 - 1, 3 - 0 + 3 - 1}, want_refs[] = {0 - 2, 1 - 0 + 1 - 2, 0 - 3 + 2 - 3 + 2 - 3};
  for (int64_t e = 0; e < 2; ++e) CHECK_NEAR(run.grad[e], want[e], 1e-15);
  for (int64_t e = 0; e < 3; ++e) CHECK_NEAR(run.grad_refs[e], want_refs[e], 1e-15);
}

TEST(batch_all_positives_around_sorting_threshold_match_triple_loop) {
  check_classes<float>({32, 1, 33, 31, 7, 2, 40}, 17);
  check_classes<double>({32, 1, 33, 31, 7, 2, 40}, 16);
}

TEST(batch_all_classes_in_several_chunks_match_triple_loop) {
  check_classes<float>({230, 220}, 2);
  check_classes<double>({210, 240}, 4);
  check_classes<float>({1, 550, 20, 3}, 3);
}

TEST(batch_all_refs_of_any_class_sizes_match_triple_loop) {
  check_classes<float>({5, 1, 30, 7}, 17, {32, 33, 1, 31, 40});
  check_classes<double>({3, 40, 2}, 16, {33, 32, 90});
  check_classes<float>({590, 3, 7}, 2, {480, 20});  // several chunks
}

TEST(batch_all_large_depths_match_triple_loop) {
  check_classes<float>({20, 9, 4}, 257);
  check_classes<double>({20, 9, 4}, 513);
}

TEST(batch_all_gradient_matches_finite_differences) {
  for (const Similarity similarity : {Similarity::kCosine, Similarity::kEuclidean}) {
    for (const bool squared : {false, true}) {
      for (const BatchAllReduction reduction : {BatchAllReduction::kMean, BatchAllReduction::kMeanActive}) {
        Random random(13);
        BatchAllProblem<double> p{BatchAllRule{similarity, reduction, squared, 0.3},
                                  Batch<double>(Values::kReals, Labels::kRandom, 13, 5, random),
                                  {},
                                  {}};
        if (squared) p.make_table(random);
        context = text_of(p.rule, 13, 5, squared);
        const Run<double> run(p, SerialPool());
        double size = 0;
        for (size_t e = 0; e < run.grad.size(); ++e) {
          const double at = p.batch.x[e], step = 1e-6;
          p.batch.x[e] = at + step;
          const double up = Run<double>(p, SerialPool(), false).result.loss;
          p.batch.x[e] = at - step;
          const double down = Run<double>(p, SerialPool(), false).result.loss;
          p.batch.x[e] = at;
          CHECK_NEAR(run.grad[e], (up - down) / (2 * step), 1e-7);
          size = std::fmax(size, std::fabs(run.grad[e]));
        }
        CHECK(size > 0.01);
      }
    }
  }
}

TEST(batch_all_nonfinite_rows_are_reported) {
  Random random(3);
  BatchAllProblem<float> p{BatchAllRule{}, Batch<float>(Values::kReals, Labels::kRandom, 33, 17, random), {}, {}};
  CHECK(Run<float>(p, SerialPool()).result.finite);
  for (const double bad : {kNaN, kInfinity, 1e30}) {
    p.batch.row(20)[16] = static_cast<float>(bad);
    CHECK(!Run<float>(p, SerialPool()).result.finite);
    BatchAllProblem<float> q = p;
    q.refs = p.batch;
    CHECK(!Run<float>(q, SerialPool()).result.finite);
    for (int64_t k = 0; k < 17; ++k) q.batch.row(20)[k] = 1;
    CHECK(!Run<float>(q, SerialPool()).result.finite);
    for (int64_t k = 0; k < 17; ++k) q.refs->row(20)[k] = 1;
    CHECK(Run<float>(q, SerialPool()).result.finite);
  }
}

TEST(batch_all_any_threads_give_same_bits) {
  const std::vector<int64_t> small(70, 4), large = {230, 220};
  constexpr bool kSquared = true, kNotSquared = false;
  const auto cosine = [](bool squared, int64_t depth, bool has_table = false) {
    return BatchAllCase{
        .similarity = Similarity::kCosine, .squared = squared, .has_table = has_table, .margin = 0.2, .depth = depth};
  };
  const auto euclidean = [&](bool squared, int64_t depth, bool has_table = false) {
    BatchAllCase c = cosine(squared, depth, has_table);
    c.similarity = Similarity::kEuclidean;
    c.reduction = BatchAllReduction::kMeanActive;
    return c;
  };
  constexpr bool kTable = true;
  check_workers<float>(small, cosine(kSquared, 64));
  check_workers<float>(small, euclidean(kNotSquared, 64));
  check_workers<double>(large, euclidean(kSquared, 34));
  check_workers<double>(large, cosine(kNotSquared, 33, kTable));
  check_workers<float>(small, euclidean(kSquared, 33, kTable), 700);
  check_workers<float>(small, cosine(kNotSquared, 32), 700);
  check_workers<double>(large, cosine(kSquared, 34), 300);
  check_workers<double>(large, euclidean(kNotSquared, 33, kTable), 300);
}
