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
  queue_.clear();
  measured_.clear();
  int64_t found = 0;
  const auto measure = [&] {
    sq_dist_.resize(batch_.size());
    distances.to(query, batch_.data(), batch_.size(), sq_dist_.data());
    for (size_t i = 0; i < batch_.size(); ++i) {
      const Ranked vertex = ranked(sq_dist_[i], batch_[i]);
      measured_.push_back(vertex);
      queue_.push_back(vertex);
      std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
    }
    found += batch_.size();
  };
  batch_.assign(1, start);
  seen_[start] = search_;
  measure();
  while (!queue_.empty() && found < most) {
    const Vertex nearest = vertex_of(queue_.front());
    std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
    queue_.pop_back();
    batch_.clear();
    for (const Vertex* edge = graph.begin(nearest); edge != graph.end(nearest); ++edge) {
      if (seen_[*edge] == search_) continue;
      seen_[*edge] = search_;
      batch_.push_back(*edge);
    }
    if (static_cast<int64_t>(batch_.size()) > most - found) batch_.resize(most - found);
    measure();
  }
  return measured_;
}

}  // namespace hardmine::fanng
