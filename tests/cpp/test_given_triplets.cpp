// Given triplets: errors for invalid ones, and the measures of their pairs compared with plain sums in long double.

#include "cpu/engine/given_triplets.h"

#include "support/check.h"
#include "support/names.h"
#include "support/samples.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr PairQuantity kQuantities[] = {PairQuantity::kInnerProduct, PairQuantity::kNegativeDistance,
                                        PairQuantity::kNegativeSquaredDistance};

std::vector<int64_t> random_triplets(int64_t count, int64_t rows, Random& random) {
  std::vector<int64_t> triplets;
  for (int64_t t = 0; t < count; ++t) {
    std::vector<int64_t> order(rows);
    std::iota(order.begin(), order.end(), 0);
    random.shuffle(order);
    triplets.insert(triplets.end(), order.begin(), order.begin() + 3);
  }
  return triplets;
}

template <class T>
struct Measures {
  std::vector<T> positive, negative;
  bool finite;
};

template <class T>
Measures<T> engine(const PairMeasure& measure, const std::vector<T>& x, int64_t depth,
                   const std::vector<int64_t>& triplets, const cpu::ThreadPool& pool = SerialPool()) {
  const int64_t count = static_cast<int64_t>(triplets.size()) / 3;
  Measures<T> out{std::vector<T>(count, T(7)), std::vector<T>(count, T(7)), false};
  out.finite = cpu::measure_triplets<T>(measure, x.data(), static_cast<int64_t>(x.size()) / depth, depth,
                                        {triplets.data(), count}, pool, out.positive.data(), out.negative.data());
  return out;
}

// Sums in long double: a plain sum in double would have a larger error than the engine.
double dense(const PairMeasure& measure, const auto* x, const auto* y, int64_t depth) {
  const auto square = [](long double v) { return v * v; };
  long double xx = 0, yy = 0, inner = 0, squares = 0;
  for (int64_t k = 0; k < depth; ++k) xx += square(x[k]), yy += square(y[k]);
  const long double x_scale = measure.normalized ? std::fmax(std::sqrt(xx), 1e-12L) : 1;
  const long double y_scale = measure.normalized ? std::fmax(std::sqrt(yy), 1e-12L) : 1;
  for (int64_t k = 0; k < depth; ++k) {
    const long double a = x[k] / x_scale, b = y[k] / y_scale;
    inner += a * b;
    squares += square(a - b);
  }
  if (measure.quantity == PairQuantity::kInnerProduct) return static_cast<double>(inner);
  return static_cast<double>(measure.quantity == PairQuantity::kNegativeDistance ? -std::sqrt(squares) : -squares);
}

std::string error(std::vector<int64_t> triplets, int64_t rows) {
  return cpu::first_invalid_triplet({triplets.data(), static_cast<int64_t>(triplets.size()) / 3}, rows);
}

}  // namespace

TEST(given_triplets_with_forced_target_runs_on_it) { check_forced_target(); }

TEST(given_triplets_invalid_index_is_named_with_its_position) {
  CHECK_EQ(error({}, 0), std::string());
  CHECK_EQ(error({0, 1, 2, 9, 4, 0}, 10), std::string());
  CHECK_EQ(error({0, 1, 2, 3, 10, 2}, 10), std::string("triplets must lie in [0, B) = [0, 10), got 10 at [1, 1]"));
  CHECK_EQ(error({0, 1, -1}, 10), std::string("triplets must lie in [0, B) = [0, 10), got -1 at [0, 2]"));
  const int64_t smallest = std::numeric_limits<int64_t>::min(), largest = std::numeric_limits<int64_t>::max();
  CHECK(error({smallest, 1, 2}, 10).ends_with("got -9223372036854775808 at [0, 0]"));
  CHECK(error({0, 1, largest}, 10).ends_with("got 9223372036854775807 at [0, 2]"));
  CHECK_EQ(error({0, 1, 2}, 0), std::string("triplets must lie in [0, B) = [0, 0), got 0 at [0, 0]"));
  for (const std::vector<int64_t>& same : {std::vector<int64_t>{4, 4, 2}, {4, 2, 4}, {2, 4, 4}, {4, 4, 4}}) {
    std::string want = "triplets must be of three different rows each, got [";
    for (size_t k = 0; k < 3; ++k) want += std::to_string(same[k]) + (k < 2 ? ", " : "] at [0]");
    CHECK_EQ(error(same, 10), want);
  }
}

TYPED_TEST(given_triplets_any_measure_matches_dense_one, T) {
  for (const int64_t depth : kDepths) {
    for (const bool normalized : {false, true}) {
      for (const PairQuantity quantity : kQuantities) {
        context = "depth " + std::to_string(depth) + ", " + name_of(quantity);
        const PairMeasure measure{quantity, normalized};
        Random random(depth);
        for (const Values values : {Values::kIntegers, Values::kExactNorms, Values::kReals}) {
          const std::vector<T> x = make_rows<T>(values, 19, depth, random);
          const std::vector<int64_t> triplets = random_triplets(40, 19, random);
          const Measures<T> got = engine(measure, x, depth, triplets);
          CHECK(got.finite);
          const bool exact = quantity != PairQuantity::kNegativeDistance &&
                             ((values == Values::kIntegers && !normalized) || values == Values::kExactNorms);
          const double scale = normalized ? 4 : values == Values::kExactNorms ? 300 : 4.0 * static_cast<double>(depth);
          const double tolerance = exact ? 0 : 8 * std::numeric_limits<T>::epsilon() * scale;
          for (size_t t = 0; t < 40; ++t) {
            const T *a = &x[triplets[3 * t] * depth], *p = &x[triplets[3 * t + 1] * depth],
                    *n = &x[triplets[3 * t + 2] * depth];
            CHECK_NEAR(got.positive[t], dense(measure, a, p, depth), tolerance);
            CHECK_NEAR(got.negative[t], dense(measure, a, n, depth), tolerance);
          }
        }
      }
    }
  }
}

TYPED_TEST(given_triplets_any_threads_give_same_bits, T) {
  Random random(5);
  const int64_t depth = 257;
  const std::vector<T> x = make_rows<T>(Values::kReals, 300, depth, random);
  const std::vector<int64_t> triplets = random_triplets(700, 300, random);
  for (const bool normalized : {false, true}) {
    for (const PairQuantity quantity : kQuantities) {
      const Measures<T> serial = engine({quantity, normalized}, x, depth, triplets);
      for (const auto& pool : parallel_pools()) {
        context = std::to_string(pool->count()) + " threads";
        const Measures<T> parallel = engine({quantity, normalized}, x, depth, triplets, *pool);
        CHECK(same_bits(parallel.positive, serial.positive));
        CHECK(same_bits(parallel.negative, serial.negative));
      }
    }
  }
}

TEST(given_triplets_nonfinite_row_is_reported) {
  Random random(6);
  for (const bool normalized : {false, true}) {
    for (const PairQuantity quantity : kQuantities) {
      for (const float bad : {std::nanf(""), INFINITY, -INFINITY, 3e38f}) {  // the square of the last one overflows
        std::vector<float> x = make_rows<float>(Values::kReals, 10, 17, random);
        CHECK(engine({quantity, normalized}, x, 17, {0, 1, 2}).finite);
        x[7 * 17 + 3] = bad;
        CHECK(!engine({quantity, normalized}, x, 17, {0, 1, 2}).finite);
        CHECK(!engine({quantity, normalized}, x, 17, {}).finite);
      }
    }
  }
}
