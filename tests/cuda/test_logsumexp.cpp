// Log-sum-exps and their gradients compared with plain loops in double, under every MmaPolicy, with the same bits for
// any order of threads and blocks.

#include "cuda/kernels/logsumexp.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "host_workspace.h"
#include "mma_policies.h"
#include "support/logsumexp_oracle.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

constexpr double kTemperatures[] = {1, 0.1, 0.02};

// A batch rounded to the scalar type.
template <class Way>
Batch<typename Way::acc_t> rounded_batch(Similarity similarity, Values values, Labels labels, int64_t count,
                                         int64_t depth, Random& random) {
  using acc_t = typename Way::acc_t;
  Batch<acc_t> batch(values, labels, count, depth, random);
  if (similarity == Similarity::kHyperbolic) move_into_ball(batch);
  for (acc_t& x : batch.x) x = to_acc(from_acc<typename Way::Scalar>(x));
  // Gradients of rows without direction would overflow Float16.
  for (int64_t i = 0; i < count && std::is_same_v<typename Way::Scalar, Float16>; ++i)
    if (std::all_of(batch.row(i), batch.row(i) + depth, [](acc_t x) { return x == 0; })) *batch.row(i) = 1;
  return batch;
}

// The result of the kernels.
template <class Way>
struct CudaRun : LogSumExpArrays<typename Way::acc_t> {
  using MmaPolicy = typename Way::MmaPolicy;
  using Scalar = typename Way::Scalar;
  using acc_t = typename Way::acc_t;
  std::vector<acc_t> grad_x, grad_refs;

  explicit CudaRun(const LogSumExpProblem<acc_t>& p, const Running& running = kRunnings[0],
                   int64_t strip_weights = kStripWeights)
      : LogSumExpArrays<acc_t>(p) {
    const WithOrder order(running.order);
    const std::vector<Scalar> x = scalars(p.anchors.x), y = scalars(p.others().x);
    const LabeledMatrix<Scalar> anchors{x.data(), p.anchors.label.data(), p.anchors.count},
        refs{y.data(), p.others().label.data(), p.others().count};
    const LabeledMatrix<Scalar>* others = p.refs ? &refs : nullptr;
    HostWorkspace workspace;
    const Stream stream{running.max_blocks};
    logsumexp<MmaPolicy>(p.rule, &p.temperature, anchors, others, p.anchors.depth, this->out(), workspace, stream,
                         p.bound.empty() ? nullptr : p.bound.data());
    std::vector<Scalar> to_x(x.size(), from_acc<Scalar>(acc_t(77))),
        to_refs(p.refs ? y.size() : 0, from_acc<Scalar>(acc_t(77)));
    Scalar nothing[1];  // a wanted gradient without elements is not null either
    const auto data = [&](std::vector<Scalar>& grad) { return grad.empty() ? nothing : grad.data(); };
    logsumexp_gradient<MmaPolicy>(p.rule, &p.temperature, anchors, others, p.anchors.depth, this->saved(p),
                                  GradientOut<Scalar>{data(to_x), p.refs ? data(to_refs) : nullptr}, workspace, stream,
                                  strip_weights);
    for (const Scalar g : to_x) grad_x.push_back(to_acc(g));
    for (const Scalar g : to_refs) grad_refs.push_back(to_acc(g));
  }

  bool same(const CudaRun& other) const {
    return LogSumExpArrays<acc_t>::same(other) && same_bits(grad_x, other.grad_x) &&
           same_bits(grad_refs, other.grad_refs);
  }

 private:
  static std::vector<Scalar> scalars(const std::vector<acc_t>& from) {
    std::vector<Scalar> to;
    for (const acc_t number : from) to.push_back(from_acc<Scalar>(number));
    return to;
  }
};

// The relative error of the derivatives with respect to similarities: from rounding factors of products, and gradients
// to the type of the rows.
template <class Way>
double weight_rounding() {
  using Scalar = typename Way::Scalar;
  if (std::is_same_v<Scalar, BFloat16>) return 0x1p-7;
  if (std::is_same_v<Scalar, Float16>) return 0x1p-9;
  if (std::is_same_v<typename Way::MmaPolicy, Tf32Products>) return 0x1p-9;
  // Sums of many numbers of either sign, and differences from a common row, lose digits.
  return 64 * static_cast<double>(std::numeric_limits<typename Way::acc_t>::epsilon());
}

// A case but for its sizes.
struct Choice {
  LogSumExpPairs pairs;
  double temperature;
  bool of_columns, positives;
  Labels labels;
};
std::vector<Choice> all_choices() {
  return cases_of<Choice>(kLogSumExpPairs, kTemperatures, kEither, kEither, kLabels);
}

template <class Way>
struct Mixed {
  using acc_t = typename Way::acc_t;
  Random random;
  Batch<acc_t> anchors, refs;
  LogSumExpProblem<acc_t> problem;

  // ref_count < 0: none.
  Mixed(Similarity similarity, const Choice& choice, int64_t rows, int64_t ref_count, int64_t depth)
      : random(100 * rows + ref_count + depth),
        anchors(rounded_batch<Way>(similarity, values(similarity), choice.labels, rows, depth, random)),
        refs(rounded_batch<Way>(similarity, values(similarity), choice.labels, std::max<int64_t>(ref_count, 0), depth,
                                random)),
        problem(rule(similarity, choice), choice.temperature * (similarity == Similarity::kCosine ? 1 : 4), anchors,
                ref_count < 0 ? nullptr : &refs, random) {}

 private:
  // TF32 rounds factors, so that only exact values can be compared.
  static Values values(Similarity similarity) {
    return std::is_same_v<typename Way::MmaPolicy, Tf32Products> ? exact_values(similarity) : Values::kReals;
  }
  static LogSumExpRule rule(Similarity similarity, const Choice& choice) {
    LogSumExpRule rule;
    rule.similarity = similarity;
    rule.pairs = choice.pairs;
    rule.of_columns = choice.of_columns;
    rule.positives = choice.positives;
    return rule;
  }
};

template <class Way>
void check_case(Way way, Similarity similarity, int64_t rows, int64_t refs, int64_t depth, const Choice& choice,
                LogSumExpCoverage& coverage) {
  const Mixed<Way> mixed(similarity, choice, rows, refs, depth);
  context = std::string(way.name) + ", " + mixed.problem.text() + ", labels " + name_of(choice.labels);
  const CudaRun<Way> run(mixed.problem);
  const double least = std::is_same_v<typename Way::Scalar, Float16> ? 1e-6 : 0;  // error of subnormal numbers
  check_logsumexps(mixed.problem, run, run.grad_x, run.grad_refs, coverage, weight_rounding<Way>(), least);
}

template <class Use>
void for_similarities(const Use& use) {
  for_products([&](auto way) {
    use(way, Similarity::kCosine);
    use(way, Similarity::kDot);
  });
  for_squared_differences([&](auto way) { use(way, Similarity::kEuclidean); });
  // The ops convert 2-byte rows to float.
  use(Way<FloatSquaredDifferences, float>{"squared differences of float"}, Similarity::kHyperbolic);
  use(Way<DoubleSquaredDifferences, double>{"squared differences of double"}, Similarity::kHyperbolic);
}

}  // namespace

TEST(logsumexp_any_count_matches_double_loop) {
  LogSumExpCoverage coverage;
  Deck<Choice> choices(all_choices());
  for_similarities([&](auto way, Similarity similarity) {
    constexpr int64_t kTile = decltype(way)::MmaPolicy::kTile;
    for (const auto& [rows, depth] :
         {std::pair{int64_t{2}, 3}, {33, 17}, {kTile, 5}, {kTile + 1, 2}, {2 * kTile + 22, 2}})
      check_case(way, similarity, rows, -1, depth, choices.next(), coverage);
  });
  CHECK(coverage.found > coverage.anchors / 2 && coverage.found < coverage.anchors);
  CHECK(coverage.with_positives > coverage.anchors / 8);
}

TEST(logsumexp_any_ref_count_matches_double_loop) {
  LogSumExpCoverage coverage;
  Deck<Choice> choices(all_choices());
  for_similarities([&](auto way, Similarity similarity) {
    constexpr int64_t kTile = decltype(way)::MmaPolicy::kTile;
    check_case(way, similarity, 3, 0, 7, choices.next(), coverage);
    check_case(way, similarity, 3, 1, 7, choices.next(), coverage);
    check_case(way, similarity, 1, 2 * kTile + 1, 3, choices.next(), coverage);
    check_case(way, similarity, kTile + 3, 20, 4, choices.next(), coverage);
  });
  CHECK(coverage.found > coverage.anchors / 4 && coverage.found < coverage.anchors);
}

TEST(logsumexp_of_logits_matches_double_loop) {
  LogSumExpCoverage coverage;
  int64_t n = 0;
  for_products([&](auto way) {
    using Way = decltype(way);
    for (const LogitKind logit : {LogitKind::kSimilarity, LogitKind::kDissimilarity, LogitKind::kCircle}) {
      for (const LogSumExpPairs pairs : {LogSumExpPairs::kPositive, LogSumExpPairs::kNegative}) {
        const int64_t refs = ++n % 2 ? -1 : Way::MmaPolicy::kTile + 3;
        const Choice choice{pairs, kTemperatures[n % 3], false, false, Labels::kRandom};
        Mixed<Way> mixed(Similarity::kCosine, choice, 45, refs, 7);
        mixed.problem.rule.logit = logit;
        mixed.problem.rule.margin = 0.4;
        if (refs > 0) mixed.problem.give_bounds(0.5, mixed.random);
        context = std::string(way.name) + ", " + mixed.problem.text();
        const CudaRun<Way> run(mixed.problem);
        const double least = std::is_same_v<typename Way::Scalar, Float16> ? 1e-6 : 0;
        check_logsumexps(mixed.problem, run, run.grad_x, run.grad_refs, coverage, weight_rounding<Way>(), least);
      }
    }
  });
  CHECK(coverage.found > coverage.anchors / 3 && coverage.found < coverage.anchors);
}

TEST(logsumexp_any_order_gives_same_bits) {
  Deck<Choice> choices(all_choices());
  for_similarities([&](auto way, Similarity similarity) {
    using Way = decltype(way);
    for (const int64_t refs : {-1, 140}) {
      const Mixed<Way> mixed(similarity, choices.next(), Way::MmaPolicy::kTile + 12, refs, 3);
      const CudaRun<Way> first(mixed.problem);
      for (int n = 1; n < 4; ++n) {
        context = std::string(way.name) + ", " + mixed.problem.text() + ", order " + std::to_string(n);
        CHECK(first.same(CudaRun<Way>(mixed.problem, kRunnings[n])));
      }
      CHECK(first.same(CudaRun<Way>(mixed.problem, kRunnings[0], 1)));  // in small strips
    }
  });
}

TEST(logsumexp_nonfinite_row_makes_everything_nan) {
  for_similarities([](auto way, Similarity similarity) {
    using Way = decltype(way);
    context = way.name;
    const Choice choice{LogSumExpPairs::kAll, 0.1, true, true, Labels::kRandom};
    Mixed<Way> mixed(similarity, choice, 40, 30, 5);
    mixed.refs.x[17] = std::numeric_limits<typename Way::acc_t>::quiet_NaN();
    const CudaRun<Way> run(mixed.problem);
    for (const auto* numbers :
         {&run.log_sum, &run.column_log_sum, &run.positive_similarity, &run.grad_x, &run.grad_refs})
      CHECK(std::all_of(numbers->begin(), numbers->end(), [](auto x) { return x != x; }));
  });
}
