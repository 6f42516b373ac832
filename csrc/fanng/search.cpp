#include "search.h"

#include <algorithm>

namespace hardmine::fanng {

std::vector<Ranked>& SearchSpace::search(const Graph& graph, const PointSet& points, const float* query, Vertex start,
                                         int64_t most) {
  if (++search_ == 0) {  // after 2^32 searches the numbers begin again
    std::fill(seen_.begin(), seen_.end(), 0);
    search_ = 1;
  }
  const Distances distances(points);
  const auto further = [](const Queued& a, const Queued& b) { return a.vertex > b.vertex; };
  queue_.clear();
  measured_.clear();
  const auto measure = [&](Vertex v) {
    seen_[v] = search_;
    const Ranked vertex = ranked(distances.to(query, v), v);
    measured_.push_back(vertex);
    if (graph.begin(v) == graph.end(v)) return;
    queue_.push_back({vertex, graph.begin(v)});
    std::push_heap(queue_.begin(), queue_.end(), further);
  };
  measure(start);
  while (!queue_.empty() && static_cast<int64_t>(measured_.size()) < most) {
    Queued& nearest = queue_.front();
    const Vertex* const last = graph.end(vertex_of(nearest.vertex));
    const Vertex* edge = nearest.next_edge;
    while (edge != last && seen_[*edge] == search_) ++edge;
    if (edge == last) {
      std::pop_heap(queue_.begin(), queue_.end(), further);
      queue_.pop_back();
      continue;
    }
    nearest.next_edge = edge + 1;
    measure(*edge);
  }
  return measured_;
}

}  // namespace hardmine::fanng
