// Tuplet losses and their gradients compared with plain loops in double and with finite differences.

#include "support/check.h"
#include "support/names.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"
#include "support/tuplet_oracle.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

// Below 0.04508 one shift is not enough for all anchors.
constexpr double kTemperatures[] = {0.1, 0.01, 1, 0.045, 0.0451};

template <class T>
std::vector<T> gradients(int64_t count, Random& random) {
  std::vector<T> g(count);
  for (T& value : g) value = random.below(8) ? T(2 * random.unit() - 1) : T(0);
  return g;
}

// A case but for its sizes.
struct Choice {
  Similarity similarity;
  TupletPositive positive;
  double temperature;
  bool bounded = false, exact = false;
  Labels labels = Labels::kRandom;
  int64_t depth = 2;

  TupletRule rule() const {
    TupletRule rule;
    rule.similarity = similarity;
    rule.positive = positive;
    rule.temperature = temperature;
    // Thresholds that similarities of the exact samples reach.
    if (bounded)
      rule.duplicate_threshold = similarity == Similarity::kCosine ? 0.5 : similarity == Similarity::kDot ? 2 : -1;
    return rule;
  }
  Values values() const { return exact ? exact_values(similarity) : Values::kReals; }
};

std::vector<Choice> all_choices() {
  return cases_of<Choice>(kSimilarities, kPositives, kTemperatures, kEither, kEither, kLabels, kShortDepths);
}

// refs < 0: none.
template <class T>
void check_case(const Choice& choice, int64_t rows, int64_t refs, TupletCoverage& coverage) {
  Random random(1000 * rows + refs + choice.depth);
  const Batch<T> anchors(choice.values(), choice.labels, rows, choice.depth, random);
  const Batch<T> others(choice.values(), choice.labels, std::max<int64_t>(refs, 0), choice.depth, random);
  const TupletProblem<T> p{choice.rule(), anchors, refs < 0 ? nullptr : &others, gradients<T>(rows, random)};
  context = describe(p.rule, rows, refs, choice.depth) + ", labels " + name_of(choice.labels) +
            text_of({{"exact", choice.exact}});
  const TupletRun<T> run(p, SerialPool());
  CHECK(run.finite);
  check_tuplets(p, run, choice.exact, coverage);
}

template <class T>
bool same_run(const TupletRun<T>& a, const TupletRun<T>& b) {
  return same_bits(a.value, b.value) && same_bits(a.logsumexp, b.logsumexp) && same_bits(a.shift, b.shift) &&
         same_bits(a.sum, b.sum) && same_bits(a.slope, b.slope) &&
         same_bits(a.positive_similarity, b.positive_similarity) && a.positive_index == b.positive_index &&
         a.positive_count == b.positive_count && same_bits(a.grad_x, b.grad_x) && same_bits(a.grad_refs, b.grad_refs);
}

// Enough work for two threads or more in every pass.
template <class T>
void check_workers(Similarity similarity, TupletPositive positive, double temperature, int64_t ref_count) {
  Random random(5);
  const int64_t count = 289, depth = 56;
  const Batch<T> anchors(Values::kReals, Labels::kRandom, count, depth, random);
  const Batch<T> refs(Values::kReals, Labels::kRandom, std::max<int64_t>(ref_count, 0), depth, random);
  TupletRule rule;
  rule.similarity = similarity;
  rule.positive = positive;
  rule.temperature = temperature;
  const TupletProblem<T> p{rule, anchors, ref_count < 0 ? nullptr : &refs, gradients<T>(count, random)};
  const TupletRun<T> serial(p, SerialPool());
  for (const int64_t threads : {2, 7}) {
    context = std::to_string(threads) + " threads, " + describe(rule, count, ref_count, depth);
    CHECK(same_run(TupletRun<T>(p, ThreadedPool(threads)), serial));
  }
  context = "reverse order, " + describe(rule, count, ref_count, depth);
  CHECK(same_run(TupletRun<T>(p, ReversePool()), serial));
}

double loss_of(const TupletProblem<double>& p) {
  std::vector<double> value(p.anchors.count), other[5];
  std::vector<int64_t> index(p.anchors.count), counts(p.anchors.count);
  for (std::vector<double>& numbers : other) numbers.resize(p.anchors.count);
  const LabeledMatrix<double> refs = p.others().view();
  cpu::tuplet_forward<double>(p.rule, p.anchors.view(), p.refs ? &refs : nullptr, p.anchors.depth, SerialPool(),
                              {value.data(), other[0].data(), other[1].data(), other[2].data(), other[3].data(),
                               other[4].data(), index.data(), counts.data()});
  double sum = 0;
  for (int64_t i = 0; i < p.anchors.count; ++i) sum += p.gradient[i] * value[i];
  return sum;
}

}  // namespace

TEST(tuplet_loss_with_forced_target_runs_on_it) { check_forced_target(); }

TYPED_TEST(tuplet_loss_any_count_matches_double_loop, T) {
  TupletCoverage coverage;
  Deck<Choice> choices(all_choices(), sizeof(T));
  for (const int64_t rows : kEdges)
    for (int64_t n = 0; n < 40; ++n) check_case<T>(choices.next(), rows, -1, coverage);
  CHECK(coverage.valid > coverage.anchors / 4 && coverage.valid < coverage.anchors);
  CHECK(coverage.many_positives > coverage.anchors / 8);
  CHECK(coverage.dropped > 1000);
}

TYPED_TEST(tuplet_loss_any_ref_count_matches_double_loop, T) {
  TupletCoverage coverage;
  Deck<Choice> choices(all_choices(), 1 + sizeof(T));
  for (const int64_t rows : kEdges)
    for (const int64_t refs : kEdges)
      for (int64_t n = 0; n < 4; ++n) check_case<T>(choices.next(), rows, refs, coverage);
  CHECK(coverage.valid > coverage.anchors / 4 && coverage.valid < coverage.anchors);
  CHECK(coverage.many_positives > coverage.anchors / 8);
}

// From 6,145 rows on, blocks are two steps wide.
TEST(tuplet_loss_wide_blocks_match_double_loop) {
  TupletCoverage coverage;
  for (const Choice& choice :
       {Choice{.similarity = Similarity::kCosine, .positive = TupletPositive::kEasiest, .temperature = 0.1},
        Choice{
            .similarity = Similarity::kDot, .positive = TupletPositive::kHardest, .temperature = 0.0451, .exact = true},
        Choice{.similarity = Similarity::kEuclidean, .positive = TupletPositive::kAll, .temperature = 0.045}})
    check_case<double>(choice, 35, 6200, coverage);
  CHECK(coverage.valid > 30);
}

TYPED_TEST(tuplet_loss_large_depths_match_double_loop, T) {
  TupletCoverage coverage;
  Deck<Choice> choices(cases_of<Choice>(kSimilarities, kPositives, kTemperatures), sizeof(T));
  for (const int64_t depth : {255, 257, 513}) {
    for (const int64_t refs : {-1, 41}) {
      for (int64_t n = 0; n < 9; ++n) {
        Choice choice = choices.next();
        choice.depth = depth;
        check_case<T>(choice, 33, refs, coverage);
      }
    }
  }
  CHECK(coverage.valid > 100);
}

// s_ap = 1 and two negatives with s_an = 0.
TEST(tuplet_loss_one_anchor_matches_hand_worked_values) {
  Random random(1);
  Batch<double> batch(Values::kIntegers, Labels::kOneClass, 4, 3, random);
  batch.x = {1, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4};
  batch.label = {5, 5, 7, -1};
  for (const TupletPositive positive : kPositives) {
    TupletProblem<double> p{TupletRule{}, batch, nullptr, {1, 0, 0, 0}};
    p.rule.positive = positive;
    p.rule.temperature = 0.5;
    const TupletRun<double> run(p, SerialPool());
    const double ratio = 2 * std::exp(-2.0);  // sum of exp(s_an / t) over exp(s_ap / t)
    CHECK_NEAR(run.logsumexp[0], std::log(2.0), 1e-15);
    CHECK_NEAR(run.value[0], std::log(1 + ratio), 1e-15);
    CHECK_NEAR(run.slope[0], ratio / (1 + ratio), 1e-15);
    CHECK_EQ(run.positive_count[0], 1);
    CHECK_EQ(run.positive_count[2], 0);
    // d / d s_an = slope / (2 t) for both negatives. The positive is parallel to the anchor, so its term vanishes.
    const double to_negative = ratio / (1 + ratio);
    const std::vector<double> want = {0, to_negative, to_negative,     0, 0, 0, to_negative / 3,
                                      0, 0,           to_negative / 4, 0, 0};
    for (size_t e = 0; e < want.size(); ++e) CHECK_NEAR(run.grad_x[e], want[e], 1e-15);
  }
}

TEST(tuplet_loss_gradient_matches_finite_differences) {
  for (const bool with_refs : {false, true}) {
    for (const Similarity similarity : kSimilarities) {
      for (const TupletPositive positive : kPositives) {
        for (const double temperature : {0.04, 0.5}) {
          Random random(12);
          Batch<double> refs(Values::kReals, Labels::kRandom, 8, 5, random);
          TupletProblem<double> p{TupletRule{}, Batch<double>(Values::kReals, Labels::kRandom, 9, 5, random),
                                  with_refs ? &refs : nullptr, gradients<double>(9, random)};
          p.rule.similarity = similarity;
          p.rule.positive = positive;
          p.rule.temperature = temperature;
          context = describe(p.rule, 9, with_refs ? 8 : -1, 5);
          const TupletRun<double> run(p, SerialPool());
          double size = 0;
          const auto check = [&](std::vector<double>& input, const std::vector<double>& grad) {
            for (size_t e = 0; e < grad.size(); ++e) {
              const double at = input[e], step = 1e-6;
              input[e] = at + step;
              const double up = loss_of(p);
              input[e] = at - step;
              const double down = loss_of(p);
              input[e] = at;
              CHECK_NEAR(grad[e], (up - down) / (2 * step), 2e-6 / temperature);
              size = std::fmax(size, std::fabs(grad[e]));
            }
          };
          check(p.anchors.x, run.grad_x);
          check(refs.x, run.grad_refs);
          CHECK(size > 0.1);
        }
      }
    }
  }
}

// Similarities whose exponentials overflow in every type. Where the similarities are exact, so are all but the last
// digits of the loss.
TEST(tuplet_loss_large_similarities_keep_digits) {
  for (const TupletPositive positive : kPositives) {
    for (const bool with_refs : {false, true}) {
      for (const bool exact : {false, true}) {
        for (const Similarity similarity : {Similarity::kDot, Similarity::kEuclidean}) {
          Random random(8);
          const Values values = exact ? Values::kIntegers : Values::kReals;
          Batch<float> anchors(values, Labels::kRandom, 97, 5, random), refs(values, Labels::kRandom, 97, 5, random);
          for (float& x : anchors.x) x *= 16;
          for (float& x : refs.x) x *= 16;
          TupletProblem<float> p{TupletRule{}, anchors, with_refs ? &refs : nullptr, gradients<float>(97, random)};
          p.rule.similarity = similarity;
          p.rule.positive = positive;
          p.rule.temperature = exact ? 1e-4 : 0.1;
          context = describe(p.rule, 97, with_refs ? 97 : -1, 5) + (exact ? ", exact" : "");
          TupletCoverage coverage;
          check_tuplets(p, TupletRun<float>(p, SerialPool()), exact, coverage);
          CHECK(coverage.valid > 90);
          p.rule.temperature = 1e-6;
          const TupletRun<float> extreme(p, SerialPool());
          for (const float value : extreme.value) CHECK(std::isfinite(value));
          for (const float grad : extreme.grad_x) CHECK(std::isfinite(grad));
        }
      }
    }
  }
}

// Rows below the minimum norm are divided by the minimum. They are not unit rows, and their gradients are 0.
TEST(tuplet_loss_rows_below_minimum_norm_match_double_loop) {
  for (const TupletPositive positive : kPositives) {
    for (const bool with_refs : {false, true}) {
      Random random(6);
      Batch<double> anchors(Values::kReals, Labels::kRandom, 20, 9, random), refs = anchors;
      for (int64_t k = 0; k < 9; ++k) {
        anchors.row(3)[k] *= 1e-13;
        anchors.row(5)[k] = refs.row(2)[k] = 0;
        refs.row(4)[k] *= 1e-13;
      }
      TupletProblem<double> p{TupletRule{}, anchors, with_refs ? &refs : nullptr, gradients<double>(20, random)};
      p.rule.positive = positive;
      context = describe(p.rule, 20, with_refs ? 20 : -1, 9);
      TupletCoverage coverage;
      check_tuplets(p, TupletRun<double>(p, SerialPool()), false, coverage);
      CHECK(coverage.valid > 15);
    }
  }
}

// Distances and gradients do not depend on the origin, bit for bit, because the offset is exact.
TEST(tuplet_loss_rows_far_from_origin_give_same_bits) {
  for (const bool with_refs : {false, true}) {
    Random random(9);
    Batch<float> near(Values::kReals, Labels::kRandom, 50, 16, random), far = near;
    Batch<float> near_refs(Values::kReals, Labels::kRandom, 40, 16, random), far_refs = near_refs;
    const auto move = [](Batch<float>& from, Batch<float>& to) {
      for (size_t e = 0; e < from.x.size(); ++e) {
        from.x[e] = std::round(from.x[e] * 64) / 64;
        to.x[e] = from.x[e] + 4096;
      }
    };
    move(near, far);
    move(near_refs, far_refs);
    TupletRule rule;
    rule.similarity = Similarity::kEuclidean;
    rule.positive = TupletPositive::kAll;
    const std::vector<float> g = gradients<float>(50, random);
    const TupletRun<float> a(TupletProblem<float>{rule, near, with_refs ? &near_refs : nullptr, g}, SerialPool());
    const TupletRun<float> b(TupletProblem<float>{rule, far, with_refs ? &far_refs : nullptr, g}, SerialPool());
    CHECK(a.value == b.value);
    CHECK(same_bits(a.grad_x, b.grad_x));
    CHECK(same_bits(a.grad_refs, b.grad_refs));
  }
}

TEST(tuplet_loss_nonfinite_rows_are_reported) {
  for (const bool in_refs : {false, true}) {
    Random random(3);
    Batch<double> anchors(Values::kReals, Labels::kRandom, 33, 17, random), refs = anchors;
    (in_refs ? refs : anchors).row(20)[16] = kNaN;
    for (const TupletPositive positive : kPositives) {
      TupletProblem<double> p{TupletRule{}, anchors, &refs, gradients<double>(33, random)};
      p.rule.positive = positive;
      const TupletRun<double> run(p, SerialPool());
      CHECK(!run.finite);
      for (const double grad : run.grad_x) CHECK(std::isnan(grad));  // left as they were
      if (!in_refs) continue;
      p.refs = nullptr;
      CHECK(TupletRun<double>(p, SerialPool()).finite);
    }
  }
}

TEST(tuplet_loss_null_output_changes_nothing) {
  Random random(4);
  const Batch<float> anchors(Values::kReals, Labels::kRandom, 97, 17, random);
  const Batch<float> refs(Values::kReals, Labels::kRandom, 33, 17, random);
  for (const Similarity similarity : kSimilarities) {
    TupletProblem<float> p{TupletRule{}, anchors, &refs, gradients<float>(97, random)};
    p.rule.similarity = similarity;
    const TupletRun<float> both(p, SerialPool());
    CHECK(same_bits(TupletRun<float>(p, SerialPool(), true, false).grad_x, both.grad_x));
    CHECK(same_bits(TupletRun<float>(p, SerialPool(), false, true).grad_refs, both.grad_refs));
    TupletRun<float>(p, SerialPool(), false, false);
  }
}

TEST(tuplet_loss_any_threads_give_same_bits) {
  check_workers<float>(Similarity::kCosine, TupletPositive::kEasiest, 0.1, -1);
  check_workers<double>(Similarity::kCosine, TupletPositive::kAll, 0.01, -1);
  check_workers<float>(Similarity::kEuclidean, TupletPositive::kAll, 0.1, -1);
  check_workers<float>(Similarity::kEuclidean, TupletPositive::kAll, 0.1, 130);
  check_workers<double>(Similarity::kDot, TupletPositive::kHardest, 0.1, 193);
}
