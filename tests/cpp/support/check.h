// The whole test framework, so that the C++ tests need no package: TEST, TYPED_TEST, the CHECK macros and main.
// Each test file is an executable: test_knn runs all its tests, test_knn TEXT those with TEXT in their names, and
// test_knn --list prints the names.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <string>
#include <type_traits>
#include <vector>

namespace hardmine::test {

struct Test {
  std::string name;
  void (*body)();
};
struct Skip {  // thrown by a test: ctest then shows the whole executable as skipped
  std::string why;
};
inline std::vector<Test> tests;
inline std::string test_name, context;  // printed with a failure; loops set the context to their current case
inline int64_t checks = 0, failures = 0;

inline std::ostream& report_failure() {
  // A broken engine fails at every shape. The first failures are enough to read.
  if (failures++ == 20) {
    std::cerr << "stopped after 20 failures" << std::endl;
    std::exit(1);
  }
  return std::cerr << test_name << (context.empty() ? "" : " [" + context + "]") << "\n  ";
}

template <class Explain>
void check(bool holds, const char* file, int line, const char* what, const Explain& explain) {
  ++checks;
  if (!holds) explain(report_failure() << file << ":" << line << ": " << what) << std::endl;
}

template <class Error, class Call>
void check_throws(const Call& call, const std::string& part, const char* file, int line, const char* what) {
  std::string message = "nothing was thrown";
  bool caught = false;
  try {
    call();
  } catch (const Error& error) {
    message = error.what();
    caught = true;
  }
  check(caught && message.find(part) != std::string::npos, file, line, what,
        [&](auto& o) -> auto& { return o << ": got '" << message << "', want '" << part << "'"; });
}

// Equal bits. Any NaN equals any other, since no rule says which operand's NaN a sum keeps.
template <class T>
bool same_bits(const T& a, const T& b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) && std::isnan(b)) return true;
  }
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(), [](const T& x, const T& y) { return same_bits(x, y); });
}

// 0: all tests passed; 1: some failed; 2: wrong arguments; 77: skipped.
inline int run(const std::vector<std::string>& arguments) {
  std::cerr.precision(17);
  std::string filter;
  for (const std::string& argument : arguments) {
    if (argument == "--list") {
      for (const Test& test : tests) std::cout << test.name << std::endl;
      return 0;
    }
    if (argument.starts_with("-") || !filter.empty()) {
      std::cerr << "usage: [--list | TEXT], the text of the names to run; got '" << argument << "'" << std::endl;
      return 2;
    }
    filter = argument;
  }
  int64_t count = 0;
  for (const Test& test : tests) {
    if (test.name.find(filter) == std::string::npos) continue;
    ++count;
    test_name = test.name;
    context.clear();
    try {
      test.body();
    } catch (const Skip& skip) {
      std::cout << "skipped: " << skip.why << std::endl;
      return 77;
    } catch (const std::exception& error) {
      report_failure() << "uncaught exception: " << error.what() << std::endl;
    } catch (...) {
      report_failure() << "uncaught exception of an unknown type" << std::endl;
    }
  }
  if (!count) {
    std::cerr << "no test has '" << filter << "' in its name; --list prints the names" << std::endl;
    return 2;
  }
  std::cout << count << " tests, " << checks << " checks, " << failures << " failures" << std::endl;
  return failures != 0;
}

}  // namespace hardmine::test

#define TEST(name)                                                                         \
  static void name();                                                                      \
  static const bool name##_added = (hardmine::test::tests.push_back({#name, name}), true); \
  static void name()

// One body for float and double: the tests name<float> and name<double>.
#define TYPED_TEST(name, T)                                                                                   \
  template <class T>                                                                                          \
  static void name();                                                                                         \
  static const bool name##_added = (hardmine::test::tests.push_back({#name "<float>", name<float>}),          \
                                    hardmine::test::tests.push_back({#name "<double>", name<double>}), true); \
  template <class T>                                                                                          \
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
// The expression must throw a Type whose message contains `part`.
#define CHECK_THROWS(expression, Type, part) \
  hardmine::test::check_throws<Type>([&] { (void)(expression); }, part, __FILE__, __LINE__, #expression)

int main(int argc, char** argv) { return hardmine::test::run({argv + 1, argv + argc}); }
