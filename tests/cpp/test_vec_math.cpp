// exp2, log1p, softplus and sigmoid of the scalar target compared with the standard library, and those of the other
// targets compared with the scalar ones.

#include <cmath>

#include "support/check.h"
#include "support/samples.h"
#include "support/simd_targets.h"
#include "support/vec_math_targets.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

template <class T>
const VecMath<T>& math_of(const std::string& target) {
  const auto choose = [](const VecMath<float>& for_float, const VecMath<double>& for_double) -> const VecMath<T>& {
    if constexpr (sizeof(T) == sizeof(float)) {
      return (void)for_double, for_float;
    } else {
      return (void)for_float, for_double;
    }
  };
#define HARDMINE_CHOOSE_MATH(name) \
  if (target == #name) return choose(kFloatMath_##name, kDoubleMath_##name);
  HARDMINE_FOR_EACH_TARGET(HARDMINE_CHOOSE_MATH)
#undef HARDMINE_CHOOSE_MATH
  CHECK_EQ(target, "scalar");
  return choose(kFloatMath_scalar, kDoubleMath_scalar);
}

template <class T>
std::vector<T> values_of(typename VecMath<T>::Map map, std::vector<T> x) {
  const size_t count = x.size();
  x.resize((count + 15) / 16 * 16, T(0));
  std::vector<T> out(x.size());
  map(x.data(), static_cast<int64_t>(x.size()), out.data());
  out.resize(count);
  return out;
}

// Arguments of exp2: integers and the halves between them, where rounding to an integer jumps; their neighbors; random
// numbers; tiny numbers.
template <class T>
std::vector<T> powers() {
  Random random(1);
  const T infinity = std::numeric_limits<T>::infinity();
  std::vector<T> x;
  for (double n = -125; n <= 127; n += 0.5)
    for (const T near : {std::nextafter(T(n), -infinity), T(n), std::nextafter(T(n), infinity)}) x.push_back(near);
  for (int i = 0; i < 20000; ++i) x.push_back(T(252 * random.unit() - 125));
  for (int e = -60; e < 0; ++e) x.push_back(T(std::ldexp(e % 2 ? 1 : -1, e)));
  std::erase_if(x, [](T v) { return v < T(-125) || v > T(127); });
  return x;
}

// Arguments of log1p: [0, 1], down to the smallest number that no CPU flushes to zero.
template <class T>
std::vector<T> ratios() {
  Random random(2);
  std::vector<T> x = {T(0), T(1), std::numeric_limits<T>::epsilon() / 2, std::numeric_limits<T>::min()};
  for (int i = 0; i <= 20000; ++i) x.push_back(T(i) / T(20000));
  for (int e = std::numeric_limits<T>::min_exponent; e < 0; ++e) x.push_back(T(std::ldexp(1 + random.unit(), e)));
  return x;
}

// Arguments of the others: up to 125 log(2) = 86.6, where exp(-|x|) becomes 0.
template <class T>
std::vector<T> any_numbers() {
  Random random(3);
  std::vector<T> x = {T(0), T(-0.0)};
  for (const double range : {1.0, 20.0, 86.0})
    for (int i = 0; i <= 10000; ++i) x.push_back(T(range * (i / 5000.0 - 1)));
  for (int e = -60; e < 6; ++e)
    for (const int sign : {-1, 1}) x.push_back(T(sign * std::ldexp(1 + random.unit(), e)));
  return x;
}

// `bound` is in units of epsilon times the exact value.
template <class T, class Exact, class Bound>
void check_errors(const char* name, typename VecMath<T>::Map map, const std::vector<T>& x, const Exact& exact,
                  const Bound& bound) {
  const std::vector<T> got = values_of<T>(map, x);
  double worst = 0;  // largest error relative to the bound: shows that the bound is tight
  for (size_t i = 0; i < x.size(); ++i) {
    context = std::string(name) + " of " + std::to_string(x[i]);
    const long double want = exact(static_cast<long double>(x[i]));
    const double epsilon = std::numeric_limits<T>::epsilon() * static_cast<double>(std::fabs(want));
    const double error = static_cast<double>(static_cast<long double>(got[i]) - want);
    CHECK_NEAR(error, 0, bound(static_cast<double>(x[i])) * epsilon);
    if (epsilon > 0) worst = std::fmax(worst, std::fabs(error) / (bound(static_cast<double>(x[i])) * epsilon));
  }
  CHECK(worst > 0.2);
}

}  // namespace

TYPED_TEST(vec_math_errors_are_a_few_ulps, T) {
  using L = long double;
  const VecMath<T>& math = math_of<T>("scalar");
  const auto exact_decay = [](L x) { return std::exp(-std::fabs(x)); };
  const auto few = [](double units) { return [units](double) { return units; }; };
  check_errors<T>("exp2", math.exp2, powers<T>(), [](L x) { return std::exp2(x); }, few(1));
  check_errors<T>("log1p", math.log1p, ratios<T>(), [](L x) { return std::log1p(x); }, few(2.5));
  // exp(x) = 2^(x log2(e)). The product and log2(e) are each off by half an epsilon. In the exponent this is an error
  // of |x| epsilon of the result.
  const std::vector<T> x = any_numbers<T>();
  const auto of_exponent = [](double v) { return 1 + std::fabs(v); };
  const auto below_zero = [](double v) { return 2.5 + std::fmax(-v, 0); };
  check_errors<T>("decay", math.decay, x, exact_decay, of_exponent);
  check_errors<T>(
      "softplus", math.softplus, x, [&](L v) { return std::fmax(v, L(0)) + std::log1p(exact_decay(v)); }, below_zero);
  check_errors<T>(
      "sigmoid", math.sigmoid, x, [&](L v) { return (v < 0 ? exact_decay(v) : 1) / (1 + exact_decay(v)); }, below_zero);
}

TYPED_TEST(vec_math_limits_are_exact, T) {
  const VecMath<T>& math = math_of<T>("scalar");
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  const auto value = [](typename VecMath<T>::Map map, T x) { return values_of<T>(map, {x})[0]; };
  for (int n = -125; n <= 127; ++n) CHECK_EQ(value(math.exp2, T(n)), T(std::ldexp(1, n)));
  for (const T x :
       {std::nextafter(T(-125), -infinity), T(-126), T(-1000), -std::numeric_limits<T>::max(), -infinity, nan})
    CHECK_EQ(value(math.exp2, x), T(0));
  CHECK_EQ(value(math.log1p, T(0)), T(0));
  for (const T tiny : {std::numeric_limits<T>::min(), T(1e-30), T(1e-20)}) CHECK_EQ(value(math.log1p, tiny), tiny);
  for (const T zero : {T(0), T(-0.0)}) {
    CHECK_EQ(value(math.decay, zero), T(1));
    CHECK_EQ(value(math.sigmoid, zero), T(0.5));
    CHECK_NEAR(value(math.softplus, zero), std::log(2.0), std::numeric_limits<T>::epsilon());
  }
  for (const T far : {T(87), T(1e4), std::numeric_limits<T>::max(), infinity}) {
    CHECK_EQ(value(math.decay, far), T(0));
    CHECK_EQ(value(math.decay, -far), T(0));
    CHECK_EQ(value(math.softplus, far), far);
    CHECK_EQ(value(math.softplus, -far), T(0));
    CHECK_EQ(value(math.sigmoid, far), T(1));
    CHECK_EQ(value(math.sigmoid, -far), T(0));
  }
  CHECK_EQ(value(math.decay, nan), T(0));
}

TYPED_TEST(vec_math_any_target_gives_same_bits, T) {
  const T infinity = std::numeric_limits<T>::infinity();
  const VecMath<T>& scalar = math_of<T>("scalar");
  std::vector<T> x = powers<T>(), t = ratios<T>();
  for (const T value : any_numbers<T>()) x.push_back(value);
  for (const T value : {T(87), T(-87), T(-126), T(-1e30), -infinity, std::numeric_limits<T>::quiet_NaN()})
    x.push_back(value);
  for (const BuiltTarget& target : built_targets()) {
    if (!target.available || target.name == "scalar") continue;
    const VecMath<T>& math = math_of<T>(target.name);
    const auto check = [&](const char* name, typename VecMath<T>::Map VecMath<T>::* map, const std::vector<T>& at) {
      const std::vector<T> got = values_of<T>(math.*map, at), want = values_of<T>(scalar.*map, at);
      for (size_t i = 0; i < at.size(); ++i) {
        context = target.name + ", " + name + " of " + std::to_string(at[i]);
        CHECK(same_bits(got[i], want[i]));
      }
    };
    check("exp2", &VecMath<T>::exp2, x);
    check("log1p", &VecMath<T>::log1p, t);
    check("decay", &VecMath<T>::decay, x);
    check("softplus", &VecMath<T>::softplus, x);
    check("sigmoid", &VecMath<T>::sigmoid, x);
  }
}
