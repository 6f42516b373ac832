// FANNG's backtrack search (Harwood and Drummond, CVPR 2016, Alg. 3).
//
// A priority queue holds the vertices that were measured, keyed by their distance to the query. The search takes the
// nearest of them out and looks along its edges, shortest first: vertices that were not seen yet are measured and
// queued in turn. It ends after a number of distance computations; its result are the nearest of all that it measured.
#pragma once

#include <cstdint>
#include <vector>

#include "draft_graph.h"

namespace hardmine::fanng {

// What one search at a time needs, for any number of searches after each other.
class SearchSpace {
 public:
  explicit SearchSpace(int64_t vertices) : seen_(static_cast<size_t>(vertices), 0) {}

  // Measures up to `most` vertices, beginning with `start`, unless there are no more to reach. Returns them, in no
  // order; valid until the next search.
  std::vector<Ranked>& search(const Graph& graph, const PointSet& points, const float* query, Vertex start,
                              int64_t most);

 private:
  std::vector<uint32_t> seen_;  // the number of the last search that saw the vertex
  uint32_t search_ = 0;
  std::vector<Ranked> queue_;  // a heap, nearest first
  std::vector<Vertex> batch_;
  std::vector<float> sq_dist_;
  std::vector<Ranked> measured_;
};

}  // namespace hardmine::fanng
