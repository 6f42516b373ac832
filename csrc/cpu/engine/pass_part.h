// The division of a pass over all pairs among ranks.
#pragma once

#include <algorithm>
#include <cstdint>

namespace hardmine::cpu {

// One of `num_parts` parts of the pairs of a pass. Ranks that hold the same rows compute a part each.
struct PassPart {
  int64_t part = 0, num_parts = 1;
};

// The part of an item of some work, if `before` comes before it. Parts are contiguous, and each has about
// total / num_parts.
inline int64_t part_of_work(double before, double work, double total, int64_t num_parts) {
  const double middle = (before + work / 2) / total;
  return std::min(static_cast<int64_t>(middle * static_cast<double>(num_parts)), num_parts - 1);
}

}  // namespace hardmine::cpu
