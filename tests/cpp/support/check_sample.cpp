// Tests of every outcome. check_sample.cmake runs them and compares what tests/cpp/support/check.h prints and returns.

#include <stdexcept>

#include "support/check.h"

using namespace hardmine::test;

namespace {

void refuse(const char* what) { throw std::invalid_argument(what); }
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST(passes) {
  context = "left over";
  CHECK(true);
  CHECK_EQ(2, 2);
  CHECK_NEAR(2, 2.5, 0.5);
  CHECK_THROWS(refuse("x must be 1, got 2"), std::invalid_argument, "got 2");
  CHECK(same_bits(kNaN, -kNaN) && same_bits(1.5F, 1.5F));
  CHECK(!same_bits(kNaN, 1.0) && !same_bits(1.0, kNaN) && !same_bits(0.0, -0.0));
  CHECK(same_bits<double>({1, kNaN}, {1, kNaN}) && !same_bits<double>({1, 2}, {1, 3}));
  CHECK(!same_bits<double>({1, 2}, {1}) && !same_bits<double>({1}, {1, 2}));
}
TEST(fails_check) { CHECK(1 > 2); }
TEST(fails_eq) {
  context = "third case";
  CHECK_EQ(1 + 1, 3);
}
TEST(fails_near) { CHECK_NEAR(1, 2, 0.5); }
TEST(fails_near_nan) { CHECK_NEAR(kNaN, 2, 0.5); }
TEST(fails_throws_nothing) { CHECK_THROWS(1 + 1, std::invalid_argument, ""); }
TEST(fails_throws_other_text) { CHECK_THROWS(refuse("x is 2"), std::invalid_argument, "got 2"); }
TEST(uncaught_exception) { refuse("x is 3"); }
TEST(uncaught_other_type) { CHECK_THROWS(throw std::out_of_range("x is 4"), std::invalid_argument, "x is 4"); }
TEST(uncaught_number) { throw 5; }
TYPED_TEST(typed, T) { CHECK_EQ(sizeof(T), sizeof(float)); }
TEST(fails_hundred_times) {
  for (int n = 0; n < 100; ++n) CHECK_EQ(n, -1);
}
TEST(skips) { throw Skip{"no such CPU"}; }
