// Losses of given triplets on the emulation: measures and gradients compared with plain sums in double, losses compared
// with the loops in core, and invalid triplets.

#include "cuda/kernels/given_triplets.h"

#include "host_workspace.h"
#include "mma_policies.h"
#include "support/dense_gradient.h"
#include "support/names.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

using Triplets = std::vector<int64_t>;  // [count, 3]

constexpr PairQuantity kQuantities[] = {PairQuantity::kInnerProduct, PairQuantity::kNegativeDistance,
                                        PairQuantity::kNegativeSquaredDistance};

Triplets random_triplets(int64_t count, int64_t rows, Random& random) {
  Triplets triplets;
  while (static_cast<int64_t>(triplets.size()) < 3 * count) {
    const int64_t triplet[] = {random.below(rows), random.below(rows), random.below(rows)};
    if (triplet[0] == triplet[1] || triplet[0] == triplet[2] || triplet[1] == triplet[2]) continue;
    triplets.insert(triplets.end(), triplet, triplet + 3);
  }
  return triplets;
}

int64_t count_of(const Triplets& triplets) { return static_cast<int64_t>(triplets.size()) / 3; }

bool unreduced(const IndexedLoss& loss) { return loss.reduction == Reduction::kNone; }
bool unreduced(const GlobalRule&) { return false; }

// A loss and its gradient. Rows are given in Scalar.
template <class Loss, class T, class Scalar = T>
struct Given {
  std::vector<T> positive, negative, value;
  std::vector<Scalar> gradient;

  // The incoming gradient of the loss: one number per term or, if reduced, only the first. `at_measures`: gradients
  // also arrive at the measures.
  Given(const PairMeasure& measure, const Loss& loss, const std::vector<Scalar>& x, int64_t depth,
        const Triplets& triplets, bool at_measures = false, const Running& running = kRunnings[0])
      : positive(count_of(triplets), T(-7)),
        negative(positive),
        value(unreduced(loss) ? positive.size() : 1, T(-7)),
        gradient(x.size(), from_acc<Scalar>(T(-7))) {
    const WithOrder order(running.order);
    const Stream stream{running.max_blocks};
    const int64_t rows = static_cast<int64_t>(x.size()) / depth, count = count_of(triplets);
    const MatrixPair<Scalar> paired{x.data(), rows, nullptr, 0, depth};
    HostWorkspace forward, backward;
    loss_of_triplets<Loss, Scalar, T>(measure, loss, paired, {triplets.data(), count},
                                      {value.data(), positive.data(), negative.data()}, forward, stream);
    const std::vector<T> arriving = arriving_at(count + 1), at_positive = arriving_at(count, 3),
                         at_negative = arriving_at(count, 4);
    loss_of_triplets_gradient<Loss, Scalar, T>(
        measure, loss, paired, {triplets.data(), count},
        {positive.data(), negative.data(), arriving.data(), at_measures ? at_positive.data() : nullptr,
         at_measures ? at_negative.data() : nullptr},
        gradient.data(), backward, stream);
  }
  bool same(const Given& other) const {
    return same_bits(positive, other.positive) && same_bits(negative, other.negative) &&
           same_bits(value, other.value) && same_bits(gradient, other.gradient);
  }
  static std::vector<T> arriving_at(int64_t count, int seed = 2) {
    std::vector<T> gradient;
    for (int64_t t = 0; t < count; ++t) gradient.push_back(T((t + seed) % 5 - 2) / T(4) + T(1));
    return gradient;
  }
};

template <class T>
void core_loss(const IndexedLoss& loss, const SelectedPairs<T>& pairs, T* out) {
  reduce_loss(loss.term, loss.reduction, pairs, out);
}
template <class T>
void core_loss(const GlobalRule& rule, const SelectedPairs<T>& pairs, T* out) {
  *out = global_loss(rule, pairs.positive_similarity, pairs.negative_similarity, pairs.count);
}
template <class T>
void core_backward(const IndexedLoss& loss, const SelectedPairs<T>& pairs, const T* grad, T* positive, T* negative) {
  reduce_loss_backward(loss.term, loss.reduction, pairs, grad, positive, negative);
}
template <class T>
void core_backward(const GlobalRule& rule, const SelectedPairs<T>& pairs, const T* grad, T* positive, T* negative) {
  global_loss_backward(rule, pairs.positive_similarity, pairs.negative_similarity, pairs.count, *grad, positive,
                       negative);
}

template <class T, class Loss>
void check_given(const PairMeasure& measure, const Loss& loss, const Batch<T>& x, const Triplets& triplets,
                 bool at_measures, const Running& running) {
  constexpr bool kGlobal = std::is_same_v<Loss, GlobalRule>;
  const int64_t count = count_of(triplets);
  context = text_of(measure) + ", rows " + std::to_string(x.count) + ", depth " + std::to_string(x.depth) +
            ", triplets " + std::to_string(count);
  const Given<Loss, T> got(measure, loss, x.x, x.depth, triplets, at_measures, running);
  const double epsilon = std::numeric_limits<T>::epsilon();

  const MeasuredSide<T> side(measure, x);
  const std::vector<double> measures = measure_matrix(measure, side, side);
  const double scale = measure.normalized ? 4 : 4.0 * static_cast<double>(x.depth);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t* row = triplets.data() + 3 * t;
    const double share = kGlobal ? -0.25 : 1;
    CHECK_NEAR(got.positive[t], share * measures[row[0] * x.count + row[1]], 8 * epsilon * scale);
    CHECK_NEAR(got.negative[t], share * measures[row[0] * x.count + row[2]], 8 * epsilon * scale);
  }

  const SelectedPairs<T> pairs{nullptr, nullptr, got.positive.data(), got.negative.data(), count};
  std::vector<T> want(got.value.size());
  core_loss(loss, pairs, want.data());
  for (size_t i = 0; i < want.size(); ++i)
    CHECK_NEAR(got.value[i], want[i], (2 * epsilon + 1e-13) * (1 + std::fabs(want[i])));  // sums have another order

  const std::vector<T> arriving = Given<Loss, T>::arriving_at(count + 1);
  std::vector<T> d_positive(count), d_negative(count);
  core_backward(loss, pairs, arriving.data(), d_positive.data(), d_negative.data());
  std::vector<double> weight(x.count * x.count), error(weight.size());
  for (int64_t t = 0; t < count; ++t) {
    const T extra[] = {Given<Loss, T>::arriving_at(count, 3)[t], Given<Loss, T>::arriving_at(count, 4)[t]};
    for (int end = 0; end < 2; ++end) {
      const int64_t place = triplets[3 * t] * x.count + triplets[3 * t + 1 + end];
      const double more = at_measures ? static_cast<double>(extra[end]) : 0;
      const double w = static_cast<double>((end ? d_negative : d_positive)[t]);
      weight[place] += (w + more) / (kGlobal ? -4 : 1);
      error[place] += 8 * epsilon * (std::fabs(w) + std::fabs(more));
    }
  }
  DenseGradient<T>(measure, side, nullptr, weight, error).check(got.gradient, {});
}

std::vector<IndexedLoss> indexed_losses() {
  std::vector<IndexedLoss> losses;
  for (const Term term : {Term::kNca, Term::kHinge, Term::kSct}) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
      TermRule rule;
      rule.term = term;
      rule.separate_means = term == Term::kSct;
      losses.push_back({rule, reduction});
    }
  }
  return losses;
}

GlobalRule global_rule(double threshold) {
  GlobalRule rule;
  rule.threshold = threshold;
  return rule;
}

constexpr PairMeasure kSquaredDistance{PairQuantity::kNegativeSquaredDistance, false};

}  // namespace

// Around 8 triplets per block, one per warp, and 1024 threads of the block that sums all.
TYPED_TEST(given_triplets_loss_and_gradient_match_dense_ones, T) {
  struct Case {
    IndexedLoss loss;
    bool at_measures;
    Running running;
  };
  Deck<Case> cases(cases_of<Case>(indexed_losses(), kEither, kRunnings));
  Deck<Running> runnings = deal_runnings();
  for (const auto& [count, depth] : {std::pair{0, 3}, {1, 1}, {9, 31}, {40, 64}, {1100, 3}}) {
    Random random(count + depth);
    const Batch<T> x(Values::kReals, Labels::kRandom, 23, depth, random);
    const Triplets triplets = random_triplets(count, x.count, random);
    for (const PairQuantity quantity : kQuantities) {
      for (const bool normalized : kEither) {
        for (int n = 0; n < (count < 1000 ? 3 : 1); ++n) {
          const auto& [loss, at_measures, running] = cases.next();
          check_given<T>({quantity, normalized}, loss, x, triplets, at_measures, running);
        }
      }
    }
    for (const double threshold : {0.01, -9.0})
      for (const bool normalized : kEither)
        for (const bool at_measures : kEither)
          check_given<T>({PairQuantity::kNegativeSquaredDistance, normalized}, global_rule(threshold), x, triplets,
                         at_measures, runnings.next());
  }
}

TEST(given_triplets_half_types_equal_rounded_float) {
  Random random(2);
  const std::vector<double> numbers = make_rows<double>(Values::kIntegers, 30, 20, random);
  const Triplets triplets = random_triplets(50, 30, random);
  const auto check = [&](const auto& loss, const PairMeasure& measure) {
    using Loss = std::decay_t<decltype(loss)>;
    const Given<Loss, float> want(measure, loss, converted<float>(numbers), 20, triplets);
    const auto check_scalar = [&](auto scalar) {
      using Scalar = decltype(scalar);
      const Given<Loss, float, Scalar> got(measure, loss, converted<Scalar>(numbers), 20, triplets);
      CHECK(same_bits(got.positive, want.positive) && same_bits(got.negative, want.negative));
      CHECK(same_bits(got.value, want.value));
      std::vector<Scalar> rounded;
      for (const float g : want.gradient) rounded.push_back(from_acc<Scalar>(g));
      CHECK(same_bits(got.gradient, rounded));
    };
    check_scalar(BFloat16{});
    check_scalar(Float16{});
  };
  for (const bool normalized : {false, true}) check(indexed_losses()[0], {PairQuantity::kNegativeDistance, normalized});
  check(global_rule(0.5), kSquaredDistance);
}

TEST(given_triplets_any_order_gives_same_bits) {
  Random random(3);
  const std::vector<float> x = make_rows<float>(Values::kReals, 40, 9, random);
  const Triplets triplets = random_triplets(300, 40, random);
  const auto check = [&](const auto& loss) {
    using GivenLoss = Given<std::decay_t<decltype(loss)>, float>;
    const GivenLoss first(kSquaredDistance, loss, x, 9, triplets);
    CHECK(first.same(GivenLoss(kSquaredDistance, loss, x, 9, triplets)));
    // The number of blocks stays the same, because it determines the order of sums.
    for (const Running& running : kRunnings)
      CHECK(first.same(GivenLoss(kSquaredDistance, loss, x, 9, triplets, false, {running.order, kMaxBlocks})));
  };
  check(indexed_losses()[0]);
  check(global_rule(0.5));
}

TEST(given_triplets_invalid_triplet_gives_nan) {
  Random random(4);
  constexpr int64_t kRows = 12, kDepth = 4;
  const std::vector<double> x = make_rows<double>(Values::kReals, kRows, kDepth, random);
  const int64_t least = std::numeric_limits<int64_t>::min(), most = std::numeric_limits<int64_t>::max();
  const Triplets bad = {0, 1, kRows, 0, -1, 2, kRows, 1, 2, 4, 4, 2, 4, 2, 4, 2, 4, 4, least, 1, 2, 1, most, 0};
  Deck<Running> runnings = deal_runnings();
  Deck<std::pair<IndexedLoss, bool>> cases(cases_of<std::pair<IndexedLoss, bool>>(indexed_losses(), kEither));
  for (const int64_t count : {1, 40, 1030}) {
    const Triplets is_valid = random_triplets(count, kRows, random);
    for (int64_t b = 0; b < count_of(bad); ++b) {
      const int64_t* triplet = bad.data() + 3 * b;
      for (const int64_t place : {int64_t{0}, count / 2, count - 1}) {
        Triplets triplets = is_valid;
        std::copy_n(triplet, 3, triplets.begin() + 3 * place);
        const auto check = [&](const auto& loss, bool at_measures) {
          context = "triplet " + std::to_string(triplet[0]) + " " + std::to_string(triplet[1]) + " " +
                    std::to_string(triplet[2]) + " at " + std::to_string(place) + " of " + std::to_string(count) +
                    text_of({{"at measures", at_measures}});
          const Given<std::decay_t<decltype(loss)>, double> got(kSquaredDistance, loss, x, kDepth, triplets,
                                                                at_measures, runnings.next());
          for (const double value : got.value) CHECK(std::isnan(value));
          for (const double g : got.gradient) CHECK(std::isnan(g));
          for (int64_t t = 0; t < count; ++t) {
            CHECK_EQ(std::isnan(got.positive[t]), t == place);
            CHECK_EQ(std::isnan(got.negative[t]), t == place);
          }
        };
        const auto& [loss, at_measures] = cases.next();
        check(loss, at_measures);
        check(global_rule(0.5), !at_measures);
      }
    }
  }
}

TEST(given_triplets_nonfinite_row_gives_nan) {
  Random random(5);
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const int64_t count : {2, 1030}) {  // few and many triplets use different kernels
    const Triplets triplets = random_triplets(count, 17, random);
    Deck<IndexedLoss> losses(indexed_losses());
    for (const double bad : {nan, infinity, -infinity, 1e200}) {  // the square of the last one overflows
      std::vector<double> x = make_rows<double>(Values::kReals, 18, 3, random);
      x[17 * 3 + 1] = bad;  // in no triplet
      const auto check = [&](const auto& loss) {
        const Given<std::decay_t<decltype(loss)>, double> got(kSquaredDistance, loss, x, 3, triplets);
        for (const double value : got.value) CHECK(std::isnan(value));
        for (const double g : got.gradient) CHECK(std::isnan(g));
        for (const double measure : got.positive) CHECK(std::isfinite(measure));
      };
      check(losses.next());
      check(global_rule(0.5));
    }
  }
}

// Distances around 10^8 that differ by hundreds: the mean of squares would lose their variance.
TEST(global_loss_large_distances_keep_variance_digits) {
  std::vector<float> x = {0};
  Triplets triplets;
  for (int64_t t = 0; t < 300; ++t) {
    x.push_back(20000.0f + 0.01f * static_cast<float>(t % 7));
    if (t > 0) triplets.insert(triplets.end(), {0, t, t + 1});
  }
  const Given<GlobalRule, float> got(kSquaredDistance, global_rule(0.5), x, 1, triplets);
  const double want = global_loss(global_rule(0.5), got.positive.data(), got.negative.data(), int64_t{299});
  CHECK(want > 1000);
  CHECK_NEAR(got.value[0], want, 1e-6 * want);
}
