// Pair gradients on the emulation compared with plain sums in double: both ways to find the pairs of a row, hubs, large
// depths, invalid indices, and any order of blocks and threads.

#include "cuda/kernels/pair_gradient.h"

#include "cuda/kernels/gather_gradient.h"
#include "host_workspace.h"
#include "mma_policies.h"
#include "support/dense_gradient.h"
#include "support/names.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

constexpr PairMeasure kMeasures[] = {{PairQuantity::kInnerProduct, false},
                                     {PairQuantity::kInnerProduct, true},
                                     {PairQuantity::kNegativeDistance, false},
                                     {PairQuantity::kNegativeDistance, true},
                                     {PairQuantity::kNegativeSquaredDistance, false},
                                     {PairQuantity::kNegativeSquaredDistance, true},
                                     {PairQuantity::kNegativeHyperbolicDistance, false}};

constexpr NonfiniteRows kKeep = NonfiniteRows::kKeepGradients, kMakeNan = NonfiniteRows::kMakeGradientsNan;

template <class T>
struct Pairs {
  std::vector<int64_t> first, second;  // first: empty where entry e is of row e
  std::vector<T> gradient;
  int64_t count, partners;

  PairList<T> view() const {
    return {first.empty() ? nullptr : first.data(), second.data(), gradient.data(), count, partners};
  }
  int64_t first_of(int64_t p) const { return first.empty() ? p / partners : first[p / partners]; }
};

// A third of all pairs contain row `hub`, unless it is -1. Some pairs are invalid.
template <class T>
Pairs<T> make_pairs(int64_t rows, int64_t others, int64_t count, int64_t partners, bool has_first, int64_t hub,
                    Random& random) {
  Pairs<T> pairs{{}, {}, {}, count, partners};
  for (int64_t e = 0; e < count && has_first; ++e) {
    pairs.first.push_back(random.below(rows));
    if (hub >= 0 && random.below(6) == 0) pairs.first.back() = hub;
    if (random.below(20) == 0) pairs.first.back() = random.below(2) ? -1 : rows + random.below(2);
  }
  for (int64_t p = 0; p < count * partners; ++p) {
    pairs.second.push_back(random.below(others));
    if (hub >= 0 && random.below(6) == 0) pairs.second.back() = hub;
    if (random.below(20) == 0) pairs.second.back() = random.below(2) ? -1 : others + random.below(2);
    pairs.gradient.push_back(random.below(10) ? T(random.below(9) - 4) / T(4) : T(0));
  }
  return pairs;
}

template <class T>
struct Gradient {
  std::vector<T> x, refs;

  Gradient(const PairMeasure& measure, const Batch<T>& rows, const Batch<T>* others, const Pairs<T>& pairs,
           NonfiniteRows nonfinite = kKeep, const Running& running = kRunnings[0])
      : x(rows.x.size(), T(-7)), refs(others ? others->x.size() : 0, T(-7)) {
    const WithOrder order(running.order);
    HostWorkspace workspace;
    const MatrixPair<T> paired{rows.x.data(), rows.count, others ? others->x.data() : nullptr,
                               others ? others->count : 0, rows.depth};
    pair_gradient<T, T>(measure, paired, pairs.view(), nonfinite, {x.data(), others ? refs.data() : nullptr}, workspace,
                        Stream{running.max_blocks});
  }
  bool same(const Gradient& other) const { return same_bits(x, other.x) && same_bits(refs, other.refs); }
};

template <class T>
void check_gradient(const PairMeasure& measure, const Batch<T>& rows, const Batch<T>* others, const Pairs<T>& pairs) {
  context = text_of(measure) + ", rows " + std::to_string(rows.count) + ", depth " + std::to_string(rows.depth) +
            ", pairs " + std::to_string(pairs.count * pairs.partners) + ", refs " + std::to_string(others != nullptr);
  const Batch<T>& columns = others ? *others : rows;
  std::vector<double> weight(rows.count * columns.count), error(weight.size());
  for (int64_t p = 0; p < pairs.count * pairs.partners; ++p) {
    const int64_t i = pairs.first_of(p), j = pairs.second[p];
    if (i < 0 || i >= rows.count || j < 0 || j >= columns.count) continue;
    weight[i * columns.count + j] += pairs.gradient[p];
    // Repeated pairs may cancel, but their rounding errors do not.
    error[i * columns.count + j] += 8 * std::numeric_limits<T>::epsilon() * std::fabs(pairs.gradient[p]);
  }
  const MeasuredSide<T> a(measure, rows), b(measure, columns);
  const DenseGradient<T> want(measure, a, others ? &b : nullptr, weight, error);
  const Gradient<T> got(measure, rows, others, pairs);
  want.check(got.x, got.refs);
}

// One type: with and without refs and lists of first rows.
template <class T>
void check_all(int64_t rows, int64_t count, int64_t partners, int64_t depth, int64_t hub) {
  Random random(rows + count + depth);
  const Batch<T> x(Values::kReals, Labels::kRandom, rows, depth, random);
  const Batch<T> refs(Values::kReals, Labels::kRandom, rows + 5, depth, random);
  Batch<T> ball = x, ball_refs = refs;
  move_into_ball(ball);
  move_into_ball(ball_refs);
  for (const PairMeasure& measure : kMeasures) {
    const bool hyperbolic = is_hyperbolic(measure);
    for (const bool has_refs : {false, true}) {
      for (const bool has_first : {false, true}) {
        const Pairs<T> pairs = make_pairs<T>(rows, has_refs ? refs.count : rows, has_first ? count : rows, partners,
                                             has_first, hub, random);
        check_gradient(measure, hyperbolic ? ball : x, !has_refs ? nullptr : hyperbolic ? &ball_refs : &refs, pairs);
      }
    }
  }
}

}  // namespace

TEST(pair_gradient_few_pairs_scanned_match_double_sum) {
  check_all<double>(20, 31, 3, 5, -1);
  check_all<float>(33, 70, 2, 9, -1);
}

TEST(pair_gradient_many_pairs_indexed_match_double_sum) {
  check_all<double>(40, kMaxPairsScanned + 1, 1, 3, -1);
  check_all<float>(30, kMaxPairsScanned / 4 + 1, 4, 3, -1);
}

// The index sums over 8,192 rows at a time. Sums of small integers are exact in any order.
TEST(pair_gradient_index_of_many_rows_is_exact) {
  constexpr int64_t kRows = 8200;
  Random random(9);
  const Batch<double> x(Values::kIntegers, Labels::kRandom, kRows, 1, random);
  const Pairs<double> pairs = make_pairs<double>(kRows, kRows, kMaxPairsScanned + 1, 1, true, kRows - 2, random);
  std::vector<double> want(kRows);
  for (int64_t p = 0; p < pairs.count; ++p) {
    const int64_t i = pairs.first[p], j = pairs.second[p];
    if (i < 0 || i >= kRows || j < 0 || j >= kRows) continue;
    want[i] += pairs.gradient[p] * x.x[j];
    want[j] += pairs.gradient[p] * x.x[i];
  }
  const Running running{emulation::Order::kDescending, 64};
  CHECK(Gradient<double>(kMeasures[0], x, nullptr, pairs, kKeep, running).x == want);
}

TEST(pair_gradient_hub_matches_double_sum) {
  check_all<double>(12, 1000, 2, 2, 5);
  check_all<double>(12, 1500, 2, 2, 11);
}

TEST(pair_gradient_large_depth_matches_double_sum) {
  check_all<double>(5, 9, 2, kGatherDepth + 1, -1);
  check_all<float>(5, 9, 2, 2 * kGatherDepth, -1);
}

TEST(pair_gradient_empty_input_is_zero) {
  for (const auto& [rows, depth] : {std::pair{0, 3}, {4, 0}, {1, 1}, {3, 2}}) {
    Random random(1);
    const Batch<double> x(Values::kReals, Labels::kRandom, rows, depth, random);
    for (const PairMeasure& measure : kMeasures) {
      const Gradient<double> got(measure, x, nullptr, {{}, {}, {}, 0, 1});
      for (const double g : got.x) CHECK_EQ(g, 0.0);
    }
  }
}

TEST(pair_gradient_any_order_gives_same_bits) {
  Random random(3);
  constexpr int64_t kRows = 25, kCount = 1000;
  const Batch<float> x(Values::kReals, Labels::kRandom, kRows, 7, random);
  const Batch<float> refs(Values::kReals, Labels::kRandom, kRows, 7, random);
  const Pairs<float> few = make_pairs<float>(kRows, kRows, kCount, 2, true, 4, random);
  // The same pairs plus invalid ones: there are enough pairs for an index.
  Pairs<float> many = few;
  many.count = kMaxPairsScanned;
  many.first.resize(many.count, 0);
  many.second.resize(2 * many.count, -1);
  many.gradient.resize(2 * many.count, 1);
  Deck<Running> runnings = deal_runnings();
  for (const PairMeasure& measure : kMeasures) {
    for (const Batch<float>* others : {static_cast<const Batch<float>*>(nullptr), &refs}) {
      const Gradient<float> first(measure, x, others, few);
      CHECK(first.same(Gradient<float>(measure, x, others, few, kKeep, runnings.next())));
      CHECK(first.same(Gradient<float>(measure, x, others, many, kKeep, runnings.next())));
    }
  }
}

TEST(pair_gradient_nan_row_reaches_all_or_its_partners) {
  for (const int64_t count : {int64_t{40}, kMaxPairsScanned + 1}) {
    Random random(5);
    Batch<double> x(Values::kReals, Labels::kRandom, 20, 3, random);
    x.row(18)[1] = std::numeric_limits<double>::quiet_NaN();
    Pairs<double> pairs = make_pairs<double>(16, 16, count, 1, true, -1, random);
    pairs.first[0] = 2;
    pairs.second[0] = 18;
    pairs.gradient[0] = 1;
    pairs.first[1] = 3;
    pairs.second[1] = 18;
    pairs.gradient[1] = 0;  // adds nothing, not even a NaN
    for (const PairMeasure& measure : kMeasures) {
      const Gradient<double> all(measure, x, nullptr, pairs, kMakeNan), own(measure, x, nullptr, pairs);
      for (const double g : all.x) CHECK(std::isnan(g));
      for (int64_t row = 0; row < x.count; ++row) {
        context = "row " + std::to_string(row) + ", pairs " + std::to_string(count);
        if (row == 2) CHECK(std::isnan(own.x[3 * row + 1]));
        if (row != 2 && row != 18)
          for (int64_t k = 0; k < 3; ++k) CHECK(std::isfinite(own.x[3 * row + k]));
        if (row > 18)
          for (int64_t k = 0; k < 3; ++k) CHECK_EQ(own.x[3 * row + k], 0.0);
      }
      const Batch<double> finite(Values::kReals, Labels::kRandom, 20, 3, random);
      const Gradient<double> by_refs(measure, finite, &x, pairs, kMakeNan);
      for (const double g : by_refs.x) CHECK(std::isnan(g));
      for (const double g : by_refs.refs) CHECK(std::isnan(g));
      const Gradient<double> none(measure, finite, nullptr, pairs, kMakeNan);
      for (const double g : none.x) CHECK(std::isfinite(g));
    }
  }
}

TEST(pair_gradient_equal_rows_is_zero) {
  Random random(6);
  Batch<double> x(Values::kReals, Labels::kRandom, 2, 4, random);
  for (int64_t k = 0; k < 4; ++k) x.row(1)[k] = x.row(0)[k];
  x.row(0)[3] = x.row(1)[3] = 0.5;
  for (const PairQuantity quantity : {PairQuantity::kNegativeDistance, PairQuantity::kNegativeHyperbolicDistance}) {
    const Gradient<double> got({quantity, false}, x, nullptr, {{}, {1, 0}, {1, 2}, 2, 1});
    for (const double g : got.x) CHECK_EQ(g, 0.0);
  }
}

TEST(pair_gradient_half_types_equal_rounded_float) {
  Random random(7);
  Batch<float> x(Values::kIntegers, Labels::kRandom, 20, 9, random);
  for (int64_t i = 0; i < x.count; ++i) x.row(i)[8] = static_cast<float>(1 + i % 2);  // hyperbolic: a gap
  const Pairs<float> pairs = make_pairs<float>(20, 20, 60, 2, true, 4, random);
  for (const PairMeasure& measure : kMeasures) {
    const Gradient<float> want(measure, x, nullptr, pairs);
    const auto check = [&](auto scalar) {
      using Scalar = decltype(scalar);
      std::vector<Scalar> rows, got(x.x.size()), rounded;
      for (const float value : x.x) rows.push_back(from_acc<Scalar>(value));
      for (const float value : want.x) rounded.push_back(from_acc<Scalar>(value));
      HostWorkspace workspace;
      pair_gradient<Scalar, float>(measure, {rows.data(), 20, nullptr, 0, 9}, pairs.view(), kKeep,
                                   {got.data(), nullptr}, workspace, Stream{3});
      CHECK(same_bits(got, rounded));
    };
    check(BFloat16{});
    check(Float16{});
  }
}

struct LossCase {
  const char* name;
  PairMeasure measure;
  Term term;
  Reduction reduction = Reduction::kMean;
  bool separate_means = true, has_refs = false, has_loss = true, has_positive = false, has_negative = false;
};  // has_loss, has_positive, has_negative: this gradient arrives
constexpr LossCase kLossCases[] = {
    {.name = "sct", .measure = kMeasures[0], .term = Term::kSct},
    {.name = "sct with refs", .measure = kMeasures[3], .term = Term::kSct, .has_refs = true},
    {.name = "sct with one mean", .measure = kMeasures[0], .term = Term::kSct, .separate_means = false},
    {.name = "hinge and positive",
     .measure = kMeasures[1],
     .term = Term::kHinge,
     .has_refs = true,
     .has_positive = true},
    {.name = "nca and negative", .measure = kMeasures[2], .term = Term::kNca, .has_negative = true},
    {.name = "sum of hinges", .measure = kMeasures[4], .term = Term::kHinge, .reduction = Reduction::kSum},
    {.name = "sum of nca", .measure = kMeasures[5], .term = Term::kNca, .reduction = Reduction::kSum, .has_refs = true},
    {.name = "nca without reduction", .measure = kMeasures[2], .term = Term::kNca, .reduction = Reduction::kNone},
    {.name = "similarities alone",
     .measure = kMeasures[1],
     .term = Term::kHinge,
     .has_refs = true,
     .has_loss = false,
     .has_positive = true,
     .has_negative = true}};

// The gradient is that of the pairs that core's loops weigh. With many anchors a launch of its own counts the terms;
// with few anchors no such launch is needed.
TEST(triplet_loss_gradient_equals_pair_gradient) {
  for (const int64_t count : {int64_t{21}, kMaxPairsScanned / 2 + 1}) {
    Random random(8);
    const Batch<double> x(Values::kReals, Labels::kRandom, count, 2, random);
    const Batch<double> refs(Values::kReals, Labels::kRandom, 30, 2, random);
    Deck<Running> runnings = deal_runnings();
    for (const LossCase& c : kLossCases) {
      const Batch<double>* others = c.has_refs ? &refs : nullptr;
      std::vector<int64_t> positive, negative;
      std::vector<double> to_positive, to_negative, arriving[3];
      for (int64_t i = 0; i < count; ++i) {
        const int64_t columns = others ? refs.count : count;
        positive.push_back(random.below(9) ? random.below(columns) : -1);
        negative.push_back(random.below(9) ? random.below(columns) : -1);
        to_positive.push_back(2 * random.unit() - 1);
        to_negative.push_back(2 * random.unit() - 1);
        for (auto& gradient : arriving) gradient.push_back(2 * random.unit() - 1);
      }
      LossGradient<double> loss;
      loss.term.term = c.term;
      loss.term.separate_means = c.separate_means;
      loss.reduction = c.reduction;
      loss.pairs = {positive.data(), negative.data(), to_positive.data(), to_negative.data(), count};
      loss.grad_loss = c.has_loss ? arriving[0].data() : nullptr;
      loss.grad_positive = c.has_positive ? arriving[1].data() : nullptr;
      loss.grad_negative = c.has_negative ? arriving[2].data() : nullptr;
      std::vector<double> d_positive(count), d_negative(count);
      if (loss.grad_loss)
        reduce_loss_backward(loss.term, loss.reduction, loss.pairs, loss.grad_loss, d_positive.data(),
                             d_negative.data());
      Pairs<double> pairs{{}, {}, {}, count, 2};
      for (int64_t i = 0; i < count; ++i) {
        pairs.second.insert(pairs.second.end(), {positive[i], negative[i]});
        pairs.gradient.push_back(d_positive[i] + (loss.grad_positive ? loss.grad_positive[i] : 0));
        pairs.gradient.push_back(d_negative[i] + (loss.grad_negative ? loss.grad_negative[i] : 0));
      }
      const Gradient<double> want(c.measure, x, others, pairs);
      const Running& running = runnings.next();
      const WithOrder order(running.order);
      std::vector<double> to_x(x.x.size(), -7), to_refs(refs.x.size(), -7);
      HostWorkspace workspace;
      triplet_loss_gradient<double, double>(
          c.measure, {x.x.data(), count, others ? refs.x.data() : nullptr, refs.count, 2}, loss, kKeep,
          {to_x.data(), others ? to_refs.data() : nullptr}, workspace, Stream{running.max_blocks});
      context = std::string(c.name) + ", anchors " + std::to_string(count);
      CHECK(same_bits(to_x, want.x));
      if (others) CHECK(same_bits(to_refs, want.refs));
    }
  }
}
