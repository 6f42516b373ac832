// Checks of what Python calls with. hardmine/fanng and hardmine/mining check before, with better errors; these keep a
// direct call from reading beyond an array.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "fanng/python/python_threads.h"

namespace hardmine::fanng {

inline constexpr int64_t kAnySize = -1;

[[noreturn]] inline void refuse(const std::string& name, const std::string& wanted, const std::string& got) {
  throw std::invalid_argument(name + " must be " + wanted + ", got " + got);
}

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
  return "[" + text + "]";
}

template <class T>
void check_shape(const std::string& name, const Array<T>& array, const std::vector<int64_t>& wanted) {
  std::vector<int64_t> got;
  for (size_t axis = 0; axis < array.ndim(); ++axis) got.push_back(static_cast<int64_t>(array.shape(axis)));
  const bool fits = std::equal(got.begin(), got.end(), wanted.begin(), wanted.end(),
                               [](int64_t size, int64_t want) { return want == kAnySize || size == want; });
  if (!fits) refuse(name, shape_text(wanted), shape_text(got));
}

template <class T>
void check_shape(const std::string& name, const std::optional<Array<T>>& array, const std::vector<int64_t>& wanted) {
  if (array) check_shape(name, *array, wanted);
}

inline void check_range(const std::string& name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    refuse(name, "from " + std::to_string(low) + " to " + std::to_string(high), std::to_string(value));
}

inline constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

// `values` are row numbers from `low`, which is 0, or -1 for none.
inline void check_rows(const std::string& name, const Array<int64_t>& values, int64_t low, int64_t rows) {
  for (const int64_t *value = values.data(), *end = value + values.size(); value != end; ++value)
    check_range(name, *value, low, rows - 1);
}

}  // namespace hardmine::fanng
