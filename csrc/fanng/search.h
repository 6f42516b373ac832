// FANNG's backtrack search (Harwood and Drummond, CVPR 2016, Alg. 3).
//
// A priority queue holds the vertices that were measured, keyed by their distance to the query. The search takes the
// nearest of them out and looks along its edges, shortest first: vertices that were not seen yet are measured and
// queued in turn. It ends after a number of distance computations; its result are the nearest of all that it measured.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "fanng/draft_graph.h"

namespace hardmine::fanng {

// The vertices that were measured and not taken out, the nearest of which is taken out next.
//
// A search takes out a small share of what it measures, nearly always among the nearest. So those are kept in order,
// and the others, all of them further, in none: max_computations vertices cost one comparison, and the nearest is at
// hand. With a heap of all, its upkeep took max_computations of the time of a search.
class Frontier {
 public:
  void clear();
  void push(PackedNeighbor vertex) {
    if (size_ == kNear) limit_ = near_[0];  // that one or the new one will be far
    if (vertex > limit_) {
      far_.push_back(vertex);
      return;
    }
    if (size_ == kNear) {  // the furthest of the near makes room
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
  Vertex pop() { return vertex_of(near_[--size_]); }  // not of an empty one

 private:
  static constexpr int64_t kNear = 64;

  void refill();

  PackedNeighbor near_[kNear];  // descending
  int64_t size_ = 0;
  PackedNeighbor limit_ = ~PackedNeighbor{0};  // none of far_ is nearer
  std::vector<PackedNeighbor> far_;
};

// What one search at a time needs, for any number of searches after each other.
class SearchSpace {
 public:
  explicit SearchSpace(int64_t vertices) : seen_(static_cast<size_t>(vertices), 0) {}

  // Measures up to `max_computations` vertices, beginning with `start`, unless there are no more to reach. Returns
  // them, in no order; valid until the next search.
  std::vector<PackedNeighbor>& search(const Graph& graph, const PointSet& points, const float* query, Vertex start,
                                      int64_t max_computations);

 private:
  std::vector<uint32_t> seen_;  // the number of the last search that saw the vertex
  uint32_t search_ = 0;
  Frontier frontier_;
  std::vector<Vertex> batch_;
  std::vector<float> sq_dist_;
  std::vector<PackedNeighbor> measured_;
};

}  // namespace hardmine::fanng
