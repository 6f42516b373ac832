// Log-sum-exps and their gradients compared with plain loops in double.

#include "cpu/engine/logsumexp.h"

#include "support/check.h"
#include "support/logsumexp_oracle.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr double kTemperatures[] = {1, 0.1, 0.01};
// The lengths of some rows are far apart: then their maxima have no common shift.
constexpr double kLengths[] = {1, 300};

constexpr Similarity kProducts[] = {Similarity::kCosine, Similarity::kDot};
constexpr LogitKind kLogits[] = {LogitKind::kSimilarity, LogitKind::kDissimilarity, LogitKind::kCircle};
constexpr LogSumExpPairs kOnePairKind[] = {LogSumExpPairs::kPositive, LogSumExpPairs::kNegative};
constexpr double kMargins[] = {0.4, -0.1};

template <class T>
struct LogSumExpRun : LogSumExpArrays<T> {
  bool finite;
  std::vector<T> grad_x, grad_refs;

  LogSumExpRun(const LogSumExpProblem<T>& p, const cpu::ThreadPool& pool) : LogSumExpArrays<T>(p) {
    const LabeledMatrix<T> refs = p.others().view();
    const LabeledMatrix<T>* others = p.refs ? &refs : nullptr;
    finite = cpu::logsumexp_forward<T>(p.rule, p.temperature, p.anchors.view(), others, p.anchors.depth, pool,
                                       this->out(), p.bound.empty() ? nullptr : p.bound.data());
    grad_x.assign(p.anchors.x.size(), T(kNaN));
    if (p.refs) grad_refs.assign(p.refs->x.size(), T(kNaN));
    T nothing[1];  // a wanted gradient without elements is not null either
    const auto data = [&](std::vector<T>& grad) { return grad.empty() ? nothing : grad.data(); };
    CHECK_EQ(cpu::logsumexp_backward<T>(p.rule, p.temperature, p.anchors.view(), others, p.anchors.depth,
                                        this->saved(p), pool, data(grad_x), p.refs ? data(grad_refs) : nullptr),
             finite);
  }
  bool same(const LogSumExpRun& other) const {
    return LogSumExpArrays<T>::same(other) && same_bits(grad_x, other.grad_x) && same_bits(grad_refs, other.grad_refs);
  }
};

// A case but for its sizes.
struct Choice {
  Similarity similarity;
  LogSumExpPairs pairs;
  double temperature, length;
  bool of_columns, positives;
  Labels labels;
  int64_t depth;
};

template <class T>
LogSumExpProblem<T> problem(const Choice& choice, const Batch<T>& anchors, const Batch<T>* refs, Random& random) {
  LogSumExpRule rule;
  rule.similarity = choice.similarity;
  rule.pairs = choice.pairs;
  rule.of_columns = choice.of_columns;
  rule.positives = choice.positives;
  LogSumExpProblem<T> p(rule, choice.temperature, anchors, refs, random);
  for (int64_t i = 0; i < anchors.count; i += 3)
    for (int64_t k = 0; k < anchors.depth; ++k) p.anchors.x[i * anchors.depth + k] *= T(choice.length);
  return p;
}

// refs < 0: none.
template <class T>
void check_case(const Choice& choice, int64_t rows, int64_t refs, LogSumExpCoverage& coverage) {
  Random random(1000 * rows + refs + choice.depth);
  const Batch<T> anchors(Values::kReals, choice.labels, rows, choice.depth, random);
  const Batch<T> others(Values::kReals, choice.labels, std::max<int64_t>(refs, 0), choice.depth, random);
  const LogSumExpProblem<T> p = problem(choice, anchors, refs < 0 ? nullptr : &others, random);
  context = p.text() + ", length " + std::to_string(choice.length) + ", labels " + name_of(choice.labels);
  const LogSumExpRun<T> run(p, SerialPool());
  CHECK(run.finite);
  check_logsumexps(p, run, run.grad_x, run.grad_refs, coverage);
}

std::vector<Choice> all_choices() {
  return cases_of<Choice>(kSimilarities, kLogSumExpPairs, kTemperatures, kLengths, kEither, kEither, kLabels,
                          kShortDepths);
}

}  // namespace

TEST(logsumexp_with_forced_target_runs_on_it) { check_forced_target(); }

TYPED_TEST(logsumexp_any_count_matches_double_loop, T) {
  LogSumExpCoverage coverage;
  Deck<Choice> choices(all_choices(), sizeof(T));
  for (const int64_t rows : kEdges)
    for (int64_t n = 0; n < 40; ++n) check_case<T>(choices.next(), rows, -1, coverage);
  CHECK(coverage.found > coverage.anchors / 2 && coverage.found < coverage.anchors);
  CHECK(coverage.with_positives > coverage.anchors / 8);
}

TYPED_TEST(logsumexp_any_ref_count_matches_double_loop, T) {
  LogSumExpCoverage coverage;
  Deck<Choice> choices(all_choices(), 1 + sizeof(T));
  for (const int64_t rows : kEdges)
    for (const int64_t refs : kEdges)
      for (int64_t n = 0; n < 4; ++n) check_case<T>(choices.next(), rows, refs, coverage);
  CHECK(coverage.found > coverage.anchors / 2 && coverage.found < coverage.anchors);
  CHECK(coverage.with_positives > coverage.anchors / 16);
}

TYPED_TEST(logsumexp_of_logits_matches_double_loop, T) {
  LogSumExpCoverage coverage;
  struct Case {
    Similarity similarity;
    LogitKind logit;
    LogSumExpPairs pairs;
    double temperature, margin;
    bool bounds;
    Labels labels;
  };
  const auto cases = cases_of<Case>(kProducts, kLogits, kOnePairKind, kTemperatures, kMargins, kEither, kLabels);
  Deck<Case> deck(cases, 2 + sizeof(T));
  for (const int64_t rows : {1, 3, 33, 97, 193}) {
    for (const int64_t ref_count : {-1, 2, 96, 193}) {
      for (int64_t n = 0; n < 12; ++n) {
        const Case choice = deck.next();
        Random random(1000 * rows + 10 * ref_count + n);
        Batch<T> anchors(Values::kReals, choice.labels, rows, 16, random);
        const Batch<T> refs(Values::kReals, choice.labels, std::max<int64_t>(ref_count, 0), 16, random);
        LogSumExpRule rule;
        rule.similarity = choice.similarity;
        rule.pairs = choice.pairs;
        rule.logit = choice.logit;
        rule.margin = choice.margin;
        LogSumExpProblem<T> p(rule, choice.temperature, anchors, ref_count < 0 ? nullptr : &refs, random);
        if (choice.bounds && p.refs) p.give_bounds(choice.similarity == Similarity::kCosine ? 0.5 : 3, random);
        context = p.text();
        const LogSumExpRun<T> run(p, SerialPool());
        check_logsumexps(p, run, run.grad_x, run.grad_refs, coverage);
      }
    }
  }
  CHECK(coverage.found > coverage.anchors / 3 && coverage.found < coverage.anchors);
}

// Enough work for two threads or more in every pass.
TYPED_TEST(logsumexp_any_thread_count_gives_same_bits, T) {
  for (const LogSumExpPairs pairs : kLogSumExpPairs) {
    for (const int64_t ref_count : {-1, 301}) {
      Random random(5);
      const Batch<T> anchors(Values::kReals, Labels::kRandom, 289, 56, random);
      const Batch<T> refs(Values::kReals, Labels::kRandom, std::max<int64_t>(ref_count, 0), 56, random);
      const Choice choice{Similarity::kCosine, pairs, 0.05, 1, true, true, Labels::kRandom, 56};
      const LogSumExpProblem<T> p = problem(choice, anchors, ref_count < 0 ? nullptr : &refs, random);
      const LogSumExpRun<T> serial(p, SerialPool());
      for (const int64_t threads : {2, 7}) {
        context = std::to_string(threads) + " threads, " + p.text();
        CHECK(LogSumExpRun<T>(p, ThreadedPool(threads)).same(serial));
      }
      context = "reverse order, " + p.text();
      CHECK(LogSumExpRun<T>(p, ReversePool()).same(serial));
    }
  }
}

TYPED_TEST(logsumexp_nonfinite_row_is_reported, T) {
  Random random(6);
  Batch<T> anchors(Values::kReals, Labels::kRandom, 40, 5, random);
  anchors.x[17] = T(kNaN);
  const Choice choice{Similarity::kDot, LogSumExpPairs::kAll, 0.1, 1, false, false, Labels::kRandom, 5};
  CHECK(!LogSumExpRun<T>(problem<T>(choice, anchors, nullptr, random), SerialPool()).finite);
}

TEST(logsumexp_infinite_product_makes_result_nan) {
  Random random(7);
  Batch<float> anchors(Values::kReals, Labels::kOneClass, 3, 1, random);
  anchors.x = {1e19f, 1e20f, 1};  // finite norms, and a product beyond the range of a float
  const Choice choice{Similarity::kDot, LogSumExpPairs::kAll, 1, 1, false, false, Labels::kOneClass, 1};
  const LogSumExpRun<float> run(problem<float>(choice, anchors, nullptr, random), SerialPool());
  CHECK(std::isnan(run.log_sum[0]) && std::isnan(run.log_sum[1]) && !std::isnan(run.log_sum[2]));
}
