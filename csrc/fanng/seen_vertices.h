// A set of vertices that is cleared in constant time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fanng/point_set.h"

namespace hardmine::fanng {

class SeenVertices {
 public:
  SeenVertices() = default;
  explicit SeenVertices(int64_t vertices) : stamp_of_(static_cast<size_t>(vertices), 0) {}

  // Whether this is the set of no vertices at all, which nothing can be added to.
  bool empty() const { return stamp_of_.empty(); }

  void clear() {
    if (++stamp_ != 0) return;
    std::fill(stamp_of_.begin(), stamp_of_.end(), 0);  // the stamp wraps
    stamp_ = 1;
  }
  // Returns whether the vertex is new.
  bool add(Vertex v) {
    const bool is_new = stamp_of_[v] != stamp_;
    stamp_of_[v] = stamp_;
    return is_new;
  }

 private:
  std::vector<uint32_t> stamp_of_;  // the last set that the vertex was added to
  uint32_t stamp_ = 1;
};

}  // namespace hardmine::fanng
