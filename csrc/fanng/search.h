// FANNG's backtrack search (Harwood and Drummond, CVPR 2016, Alg. 3).
//
// A priority queue holds measured vertices by their distance to the query. The search pops the nearest vertex, and
// measures and pushes the unseen targets of its edges. It ends after a number of distance computations. The result is
// the nearest of all measured vertices.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "fanng/draft_graph.h"

namespace hardmine::fanng {

// The priority queue of a search.
//
// A search pops few of the vertices that it pushes, nearly always among the nearest. So the nearest kNear vertices are
// sorted, and the farther ones are not: most pushes cost one comparison. A heap of all vertices took most of the time
// of a search.
class Frontier {
 public:
  void clear();
  void push(PackedNeighbor vertex) {
    if (size_ == kNear) limit_ = near_[0];  // near_[0] or the new vertex goes to far_
    if (vertex > limit_) {
      far_.push_back(vertex);
      return;
    }
    if (size_ == kNear) {  // the farthest near vertex moves to far_
      far_.push_back(near_[0]);
      PackedNeighbor* const place = std::lower_bound(near_ + 1, near_ + kNear, vertex, std::greater<>());
      std::copy(near_ + 1, place, near_);
      place[-1] = vertex;
      limit_ = near_[0];
      return;
    }
    PackedNeighbor* const last = near_ + size_++;
    PackedNeighbor* const place = std::lower_bound(near_, last, vertex, std::greater<>());
    std::copy_backward(place, last, last + 1);
    *place = vertex;
  }
  bool empty() {
    if (size_ == 0) refill();
    return size_ == 0;
  }
  Vertex pop() { return vertex_of(near_[--size_]); }  // must not be empty

 private:
  static constexpr int64_t kNear = 64;

  void refill();

  PackedNeighbor near_[kNear];  // descending
  int64_t size_ = 0;
  PackedNeighbor limit_ = ~PackedNeighbor{0};  // a lower bound of far_
  std::vector<PackedNeighbor> far_;
};

// A vertex to which a search attributes another distance from the query.
struct Displaced {
  Vertex vertex = kNoVertex;
  float sq_dist = 0;
};

// The buffers of a search, reused by consecutive searches.
class SearchSpace {
 public:
  explicit SearchSpace(int64_t vertices) : seen_(static_cast<size_t>(vertices), 0) {}

  // Measures up to `max_computations` vertices: the distinct `starts` first, then along the edges. Returns them in the
  // order in which they were measured, valid until the next search.
  std::vector<PackedNeighbor>& search(const Graph& graph, const PointSet& points, const float* query,
                                      std::span<const Vertex> starts, int64_t max_computations,
                                      Displaced displaced = {});

 private:
  std::vector<uint32_t> seen_;  // the number of the last search that saw the vertex
  uint32_t search_ = 0;
  Frontier frontier_;
  std::vector<Vertex> batch_;
  std::vector<float> sq_dist_;
  std::vector<PackedNeighbor> measured_;
};

}  // namespace hardmine::fanng
