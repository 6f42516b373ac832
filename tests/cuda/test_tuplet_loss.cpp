// Tuplet losses and their gradients compared with plain loops in double, under every MmaPolicy, with the same bits for
// any order of threads and blocks.

#include "cuda/kernels/tuplet_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "host_workspace.h"
#include "mma_policies.h"
#include "support/names.h"
#include "support/tuplet_oracle.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

// Below 0.04508 one shift is not enough for all anchors.
constexpr double kTemperatures[] = {0.1, 0.02, 1, 0.045, 0.0451};

// A batch rounded to the scalar type.
template <class Way>
Batch<typename Way::acc_t> rounded_batch(Values values, Labels labels, int64_t count, int64_t depth, Random& random) {
  using acc_t = typename Way::acc_t;
  Batch<acc_t> batch(values, labels, count, depth, random);
  for (acc_t& x : batch.x) x = to_acc(from_acc<typename Way::Scalar>(x));
  // Gradients of rows without direction would overflow Float16.
  for (int64_t i = 0; i < count && std::is_same_v<typename Way::Scalar, Float16>; ++i)
    if (std::all_of(batch.row(i), batch.row(i) + depth, [](acc_t x) { return x == 0; })) *batch.row(i) = 1;
  return batch;
}

// The result of the kernels. Outputs start as garbage, because everything must be written.
template <class Way>
struct CudaRun {
  using MmaPolicy = typename Way::MmaPolicy;
  using Scalar = typename Way::Scalar;
  using acc_t = typename Way::acc_t;
  std::vector<acc_t> value, logsumexp, shift, sum, slope, positive_similarity;  // value: the loss
  std::vector<int64_t> positive_index, positive_count;
  std::vector<acc_t> grad_x, grad_refs;
  int64_t bytes = 0, launches = 0;

  // With a reduction, the incoming gradient is the first of the problem.
  explicit CudaRun(const TupletProblem<acc_t>& p, const Running& running = kRunnings[0], bool want_x = true,
                   bool want_refs = true, int64_t strip_weights = kStripWeights) {
    const WithOrder order(running.order);
    const size_t count = p.anchors.count;
    const acc_t garbage = acc_t(77);
    for (std::vector<acc_t>* numbers : {&logsumexp, &shift, &sum, &slope, &positive_similarity})
      numbers->assign(count, garbage);
    value.assign(p.rule.reduction == Reduction::kNone ? count : 1, garbage);
    positive_index.assign(count, 77);
    positive_count.assign(count, 77);
    const std::vector<Scalar> x = scalars(p.anchors.x), y = scalars(p.others().x);
    const LabeledMatrix<Scalar> anchors{x.data(), p.anchors.label.data(), p.anchors.count},
        refs{y.data(), p.others().label.data(), p.others().count};
    HostWorkspace workspace;
    const Stream stream{running.max_blocks};
    emulation::take_launch_count();
    tuplet_loss<MmaPolicy>(p.rule, anchors, p.refs ? &refs : nullptr, p.anchors.depth,
                           {value.data(), logsumexp.data(), shift.data(), sum.data(), slope.data(),
                            positive_similarity.data(), positive_index.data(), positive_count.data()},
                           workspace, stream);
    launches = emulation::take_launch_count();
    std::vector<Scalar> to_x(want_x ? x.size() : 0), to_refs(want_refs && p.refs ? y.size() : 0);
    for (std::vector<Scalar>* grad : {&to_x, &to_refs})
      std::fill(grad->begin(), grad->end(), from_acc<Scalar>(garbage));
    Scalar nothing[1];
    const auto data = [&](std::vector<Scalar>& grad, bool wanted) {
      return !wanted ? nullptr : grad.empty() ? nothing : grad.data();
    };
    tuplet_loss_gradient<MmaPolicy>(
        p.rule, anchors, p.refs ? &refs : nullptr, p.anchors.depth,
        {p.gradient.data(), shift.data(), sum.data(), slope.data(), positive_index.data(), positive_count.data()},
        GradientOut<Scalar>{data(to_x, want_x), data(to_refs, want_refs && p.refs)}, workspace, stream, strip_weights);
    bytes = workspace.bytes();
    for (const Scalar g : to_x) grad_x.push_back(to_acc(g));
    for (const Scalar g : to_refs) grad_refs.push_back(to_acc(g));
  }

  bool same(const CudaRun& other) const {
    return same_bits(value, other.value) && same_bits(logsumexp, other.logsumexp) && same_bits(shift, other.shift) &&
           same_bits(sum, other.sum) && same_bits(slope, other.slope) &&
           same_bits(positive_similarity, other.positive_similarity) && positive_index == other.positive_index &&
           positive_count == other.positive_count && same_bits(grad_x, other.grad_x) &&
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
  TupletPositive positive;
  double temperature;
  bool bounded, exact;
  Labels labels;
};
Deck<Choice> deal_choices() { return Deck(cases_of<Choice>(kPositives, kTemperatures, kEither, kEither, kLabels)); }

// refs < 0: none.
template <class Way>
void check_case(Way way, Similarity similarity, int64_t rows, int64_t refs, int64_t depth, const Choice& choice,
                TupletCoverage& coverage) {
  using acc_t = typename Way::acc_t;
  const bool exact = choice.exact || std::is_same_v<typename Way::MmaPolicy, Tf32Products>;
  const Values values = exact ? exact_values(similarity) : Values::kReals;
  Random random(100 * rows + refs + depth);
  const auto anchors = rounded_batch<Way>(values, choice.labels, rows, depth, random);
  const auto others = rounded_batch<Way>(values, choice.labels, std::max<int64_t>(refs, 0), depth, random);
  TupletRule rule;
  rule.similarity = similarity;
  rule.positive = choice.positive;
  rule.reduction = Reduction::kNone;
  rule.temperature = choice.temperature * (similarity == Similarity::kCosine ? 1 : 4);
  if (choice.bounded)
    rule.duplicate_threshold = similarity == Similarity::kCosine ? 0.5 : similarity == Similarity::kDot ? 2 : -1;
  std::vector<acc_t> gradient(rows);
  for (acc_t& g : gradient) g = random.below(8) ? acc_t(16 * random.unit() - 8) : acc_t(0);
  const TupletProblem<acc_t> p{rule, anchors, refs < 0 ? nullptr : &others, gradient};
  context = std::string(way.name) + ", " + describe(rule, rows, refs, depth) + ", labels " + name_of(choice.labels) +
            text_of({{"exact", exact}});
  const CudaRun<Way> run(p);
  const double least = std::is_same_v<typename Way::Scalar, Float16> ? 1e-6 : 0;  // error of subnormal numbers
  check_tuplets(p, run, exact, coverage, weight_rounding<Way>(), least);
}

template <class Use>
void for_similarities(const Use& use) {
  for_products([&](auto way) {
    use(way, Similarity::kCosine);
    use(way, Similarity::kDot);
  });
  for_squared_differences([&](auto way) { use(way, Similarity::kEuclidean); });
}

// A mixed problem with at least three panels of rows under every MmaPolicy.
template <class Way>
struct Mixed {
  using acc_t = typename Way::acc_t;
  Random random{8};
  Batch<acc_t> anchors, refs;
  TupletRule rule;

  Mixed(Similarity similarity, TupletPositive positive, double temperature, int64_t count = 150, int64_t depth = 9)
      : anchors(rounded_batch<Way>(Values::kReals, Labels::kRandom, count, depth, random)),
        refs(rounded_batch<Way>(Values::kReals, Labels::kRandom, 140, depth, random)) {
    rule.similarity = similarity;
    rule.positive = positive;
    rule.temperature = temperature;
    rule.reduction = Reduction::kNone;
  }
  TupletProblem<acc_t> problem(bool with_refs) {
    std::vector<acc_t> gradient;
    for (int64_t i = 0; i < anchors.count; ++i) gradient.push_back(acc_t(2 * random.unit() - 1));
    return {rule, anchors, with_refs ? &refs : nullptr, gradient};
  }
};

}  // namespace

TEST(tuplet_loss_any_count_matches_double_loop) {
  TupletCoverage coverage;
  Deck<Choice> choices = deal_choices();
  for_similarities([&](auto way, Similarity similarity) {
    constexpr int64_t kTile = decltype(way)::MmaPolicy::kTile;
    for (const auto& [rows, depth] :
         {std::pair{int64_t{2}, 3}, {33, 17}, {kTile, 5}, {kTile + 1, 2}, {2 * kTile + 22, 2}})
      check_case(way, similarity, rows, -1, depth, choices.next(), coverage);
  });
  CHECK(coverage.valid > coverage.anchors / 4 && coverage.valid < coverage.anchors);
  CHECK(coverage.many_positives > coverage.anchors / 8);
  CHECK(coverage.dropped > 1000);
}

TEST(tuplet_loss_any_ref_count_matches_double_loop) {
  TupletCoverage coverage;
  Deck<Choice> choices = deal_choices();
  for_similarities([&](auto way, Similarity similarity) {
    constexpr int64_t kTile = decltype(way)::MmaPolicy::kTile;
    check_case(way, similarity, 3, 1, 7, choices.next(), coverage);
    check_case(way, similarity, 1, 2 * kTile + 1, 3, choices.next(), coverage);
    check_case(way, similarity, kTile + 3, 20, 4, choices.next(), coverage);
  });
  CHECK(coverage.valid > coverage.anchors / 8 && coverage.valid < coverage.anchors);
  CHECK(coverage.many_positives > coverage.anchors / 8);
}

TEST(tuplet_loss_any_order_gives_same_bits) {
  struct Case {
    TupletPositive positive;
    double temperature;
    bool with_refs;
  };
  constexpr double temperatures[] = {0.02, 0.1};
  Deck<Case> cases(cases_of<Case>(kPositives, temperatures, kEither));
  for_similarities([&](auto way, Similarity similarity) {
    using Way = decltype(way);
    const auto& [positive, temperature, with_refs] = cases.next();
    Mixed<Way> mixed(similarity, positive, temperature, Way::MmaPolicy::kTile + 12, 3);
    const auto p = mixed.problem(with_refs);
    const CudaRun<Way> first(p);
    for (int n = 1; n < 4; ++n) {
      const Running& running = kRunnings[n];
      context = std::string(way.name) + ", " + describe(p.rule, p.anchors.count, p.others().count, 3) + ", order " +
                std::to_string(static_cast<int>(running.order)) + ", blocks " + std::to_string(running.max_blocks);
      CHECK(first.same(CudaRun<Way>(p, running)));
    }
  });
}

TEST(tuplet_loss_gradient_in_strips_gives_same_bits) {
  for_similarities([](auto way, Similarity similarity) {
    using Way = decltype(way);
    context = way.name;
    Mixed<Way> mixed(similarity, TupletPositive::kHardest, 0.1, 200, 3);  // strips of 128 rows and of 72
    for (const bool with_refs : {false, true}) {
      const auto p = mixed.problem(with_refs);
      CHECK(CudaRun<Way>(p).same(CudaRun<Way>(p, kRunnings[0], true, true, 1)));
    }
  });
}

TEST(tuplet_loss_null_output_changes_nothing) {
  using Way = Way<FloatProducts, float>;
  Mixed<Way> mixed(Similarity::kCosine, TupletPositive::kAll, 0.1, 40);
  const auto p = mixed.problem(true);
  const CudaRun<Way> both(p), rows(p, kRunnings[0], true, false), refs(p, kRunnings[0], false, true);
  CHECK(same_bits(rows.grad_x, both.grad_x) && rows.grad_refs.empty());
  CHECK(same_bits(refs.grad_refs, both.grad_refs) && refs.grad_x.empty());
}

TEST(tuplet_loss_reductions_equal_sums_of_terms) {
  for_similarities([](auto way, Similarity similarity) {
    using Way = decltype(way);
    using acc_t = typename Way::acc_t;
    context = way.name;
    Mixed<Way> mixed(similarity, TupletPositive::kEasiest, 0.3, 40);
    mixed.anchors.label[5] = 1000;  // an anchor without a positive
    auto p = mixed.problem(false);
    const acc_t arriving = p.gradient[0] = acc_t(0.75);
    const CudaRun<Way> each(p);
    double sum = 0, valid = 0;
    for (const acc_t value : each.value) sum += static_cast<double>(value);
    for (const int64_t count : each.positive_count) valid += count > 0;
    CHECK(valid < 40 && valid > 20);
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
      p.rule.reduction = reduction;
      const double share = reduction == Reduction::kMean ? 1 / valid : 1;
      const CudaRun<Way> run(p);
      CHECK_EQ(run.value.size(), 1u);
      CHECK_NEAR(run.value[0], sum * share, sum * share * 1e-7);
      // The gradient equals that of unreduced terms with this incoming gradient.
      auto terms = p;
      terms.rule.reduction = Reduction::kNone;
      std::fill(terms.gradient.begin(), terms.gradient.end(), static_cast<acc_t>(share * double(arriving)));
      CHECK(same_bits(run.grad_x, CudaRun<Way>(terms).grad_x));
    }
  });
}

TEST(tuplet_loss_empty_input_is_zero) {
  Deck<TupletPositive> positives(cases_of<TupletPositive>(kPositives));
  for_similarities([&](auto way, Similarity similarity) {
    using Way = decltype(way);
    for (const auto& [rows, refs] : {std::pair{0, -1}, {1, -1}, {0, 3}, {3, 0}}) {
      for (const Reduction reduction : {Reduction::kMean, Reduction::kNone}) {
        Random random(1);
        const auto x = rounded_batch<Way>(Values::kReals, Labels::kOneClass, rows, 4, random);
        const auto y = rounded_batch<Way>(Values::kReals, Labels::kOneClass, std::max(refs, 0), 4, random);
        TupletProblem<typename Way::acc_t> p{{}, x, refs < 0 ? nullptr : &y, {1, 1, 1}};
        p.rule.similarity = similarity;
        p.rule.positive = positives.next();
        p.rule.reduction = reduction;
        context = std::string(way.name) + ", " + describe(p.rule, rows, refs, 4);
        const CudaRun<Way> run(p);
        for (const auto& numbers : {run.value, run.sum, run.slope, run.positive_similarity, run.grad_x, run.grad_refs})
          CHECK(std::all_of(numbers.begin(), numbers.end(), [](auto v) { return v == 0; }));
        CHECK(run.positive_count == std::vector<int64_t>(rows, 0));
        CHECK(run.positive_index == std::vector<int64_t>(rows, -1));
        for (const auto logsumexp : run.logsumexp) CHECK(std::isinf(logsumexp) && logsumexp < 0);
      }
    }
  });
}

TEST(tuplet_loss_nonfinite_row_gives_nan) {
  for_similarities([](auto way, Similarity similarity) {
    using Way = decltype(way);
    using acc_t = typename Way::acc_t;
    for (const Reduction reduction : {Reduction::kMean, Reduction::kNone}) {
      for (const bool in_refs : {false, true}) {
        context = std::string(way.name) + (in_refs ? ", in refs" : "");
        Mixed<Way> mixed(similarity, in_refs ? TupletPositive::kAll : TupletPositive::kEasiest, 0.02, 20);
        mixed.rule.reduction = reduction;
        auto p = mixed.problem(in_refs);
        const CudaRun<Way> sound(p);
        (in_refs ? mixed.refs : p.anchors).x[7 * 9 + 2] = std::numeric_limits<acc_t>::quiet_NaN();
        const CudaRun<Way> run(p);
        for (const auto& numbers : {run.value, run.grad_x, run.grad_refs})
          CHECK(std::all_of(numbers.begin(), numbers.end(), [](auto v) { return std::isnan(v); }));
        for (int64_t i = 0; i < 20; ++i) CHECK((!in_refs && i == 7) || std::isfinite(run.logsumexp[i]));
        CHECK(in_refs || std::isinf(run.logsumexp[7]));
      }
    }
  });
}

TEST(tuplet_loss_zero_row_keeps_digits_of_other_gradients) {
  for_products([](auto way) {
    using Way = decltype(way);
    context = way.name;
    Mixed<Way> mixed(Similarity::kCosine, TupletPositive::kAll, 0.1, 40);
    auto p = mixed.problem(false);
    std::fill(p.anchors.row(3), p.anchors.row(4), 0);
    // Pairs with the zero row add nothing to the gradients of other rows. The same holds for a row orthogonal to all
    // others, which replaces it here.
    const CudaRun<Way> got(p);
    auto wide = p;
    const int64_t depth = p.anchors.depth + 1;
    wide.anchors.depth = depth;
    wide.anchors.x.assign(40 * depth, 0);
    for (int64_t i = 0; i < 40; ++i) std::copy(p.anchors.row(i), p.anchors.row(i + 1), wide.anchors.row(i));
    wide.anchors.row(3)[depth - 1] = 1;
    const CudaRun<Way> want(wide);
    CHECK(got.positive_count == want.positive_count);
    for (int64_t i = 0; i < 40; ++i) {
      if (i == 3) continue;
      double largest = 0;
      for (int64_t k = 0; k < depth - 1; ++k) largest = std::fmax(largest, std::fabs(want.grad_x[i * depth + k]));
      CHECK(largest > 1e-3);
      for (int64_t k = 0; k < depth - 1; ++k)
        CHECK_NEAR(got.grad_x[i * (depth - 1) + k], want.grad_x[i * depth + k], largest * weight_rounding<Way>());
    }
  });
}

TEST(tuplet_loss_rows_far_from_origin_give_same_bits) {
  using Way = Way<FloatSquaredDifferences, float>;
  Mixed<Way> near(Similarity::kEuclidean, TupletPositive::kAll, 0.5, 40);
  for (float& x : near.anchors.x) x = std::round(x * 1024) / 1024;
  auto p = near.problem(false);
  const CudaRun<Way> want(p);
  for (float& x : p.anchors.x) x += 4096;  // exact
  const CudaRun<Way> got(p);
  CHECK(same_bits(got.value, want.value));
  CHECK(same_bits(got.grad_x, want.grad_x));
}

// Without their shifts, exponentials would overflow or vanish at these temperatures.
TEST(tuplet_loss_extreme_temperatures_stay_finite) {
  Deck<TupletPositive> positives(cases_of<TupletPositive>(kPositives));
  for (const double temperature : {1e-30, 1e-5, 1e5}) {
    for_similarities([&](auto way, Similarity similarity) {
      using Way = decltype(way);
      Mixed<Way> mixed(similarity, positives.next(), temperature, 20);
      context = std::string(way.name) + ", " + describe(mixed.rule, 20, 30, 9);
      mixed.refs.count = 30;
      const CudaRun<Way> run(mixed.problem(true));
      CHECK(std::all_of(run.sum.begin(), run.sum.end(), [](auto sum) { return sum > 1e-20; }));
      CHECK(std::none_of(run.logsumexp.begin(), run.logsumexp.end(), [](auto v) { return std::isnan(v); }));
      CHECK(std::none_of(run.value.begin(), run.value.end(), [](auto v) { return std::isnan(v); }));
      // Derivatives have magnitude 1 / temperature.
      if (temperature > (std::is_same_v<typename Way::Scalar, Float16> ? 1 : 1e-10))
        CHECK(std::all_of(run.grad_x.begin(), run.grad_x.end(), [](auto v) { return std::isfinite(v); }));
    });
  }
}

TEST(tuplet_loss_small_batch_takes_three_launches) {
  using Way = Way<FloatProducts, float>;
  Mixed<Way> small(Similarity::kCosine, TupletPositive::kEasiest, 0.1, 128);
  CHECK_EQ(CudaRun<Way>(small.problem(false)).launches, 3);
}
