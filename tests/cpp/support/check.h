// The whole test framework, so that the C++ tests need no package: TEST, CHECK, CHECK_EQ, CHECK_NEAR and main.
// Each test file is an executable of its own.
#pragma once

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

namespace hardmine::test {

struct Test {
  const char* name;
  void (*body)();
};
struct Skip {  // thrown by a test: ctest then shows the whole executable as skipped
  std::string why;
};
inline std::vector<Test> tests;
inline std::string context;  // what a loop is at: printed with a failure
inline int64_t checks = 0, failures = 0;

template <class Explain>
void check(bool holds, const char* file, int line, const char* what, const Explain& explain) {
  ++checks;
  if (holds) return;
  explain(std::cerr << file << ":" << line << ": " << what) << "  [" << context << "]" << std::endl;
  if (++failures == 20) std::exit(1);  // a broken engine breaks every shape: enough to read
}

}  // namespace hardmine::test

#define TEST(name)                                                                         \
  static void name();                                                                      \
  static const bool name##_added = (hardmine::test::tests.push_back({#name, name}), true); \
  static void name()
#define CHECK(holds) hardmine::test::check(holds, __FILE__, __LINE__, #holds, [](auto& o) -> auto& { return o; })
#define CHECK_EQ(got, want)                                                                      \
  [](const auto& a, const auto& b) {                                                             \
    const auto explain = [&](auto& o) -> auto& { return o << ": got " << a << ", want " << b; }; \
    hardmine::test::check(a == b, __FILE__, __LINE__, #got " == " #want, explain);               \
  }(got, want)
#define CHECK_NEAR(got, want, tolerance)                                                                        \
  [](double a, double b, double t) {                                                                            \
    const auto explain = [&](auto& o) -> auto& { return o << ": got " << a << ", want " << b << " +- " << t; }; \
    hardmine::test::check(std::fabs(a - b) <= t, __FILE__, __LINE__, #got " ~ " #want, explain);                \
  }(got, want, tolerance)

int main() {
  std::cerr.precision(17);
  try {
    for (const hardmine::test::Test& test : hardmine::test::tests) {
      hardmine::test::context = test.name;
      test.body();
    }
  } catch (const hardmine::test::Skip& skip) {
    std::cout << "skipped: " << skip.why << std::endl;
    return 77;
  }
  std::cout << hardmine::test::tests.size() << " tests, " << hardmine::test::checks << " checks, "
            << hardmine::test::failures << " failures" << std::endl;
  return hardmine::test::failures != 0;
}
