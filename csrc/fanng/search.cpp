#include "fanng/search.h"

#include <algorithm>

namespace hardmine::fanng {

void Frontier::clear() {
  size_ = 0;
  limit_ = ~PackedNeighbor{0};
  far_.clear();
}

void Frontier::refill() {
  const auto count = std::min(static_cast<int64_t>(far_.size()), kNear);
  if (count == 0) return;
  std::nth_element(far_.begin(), far_.begin() + (count - 1), far_.end());
  std::copy_n(far_.begin(), count, near_);
  std::sort(near_, near_ + count, std::greater<>());
  far_.erase(far_.begin(), far_.begin() + count);
  size_ = count;
  limit_ = far_.empty() ? ~PackedNeighbor{0} : near_[0];
}

std::vector<PackedNeighbor>& SearchSpace::search(const Graph& graph, const PointSet& points, const float* query,
                                                 std::span<const Vertex> starts, int64_t max_computations,
                                                 Displaced displaced) {
  if (++search_ == 0) {  // search_ wraps after 2^32 searches
    std::fill(seen_.begin(), seen_.end(), 0);
    search_ = 1;
  }
  const Distances distances(points);
  frontier_.clear();
  max_computations = std::min(max_computations, graph.vertices());
  measured_.resize(max_computations);
  int64_t found = 0;
  const auto measure = [&](int64_t count) {
    distances.to(query, batch_.data(), count, sq_dist_.data());
    for (int64_t i = 0; i < count; ++i) {
      const float sq_dist = batch_[i] == displaced.vertex ? displaced.sq_dist : sq_dist_[i];
      const PackedNeighbor vertex = pack_neighbor(sq_dist, batch_[i]);
      measured_[found++] = vertex;
      frontier_.push(vertex);
    }
  };
  batch_.resize(std::max(batch_.size(), starts.size()));
  sq_dist_.resize(batch_.size());
  std::copy(starts.begin(), starts.end(), batch_.begin());
  for (const Vertex start : starts) seen_[start] = search_;
  measure(std::min(static_cast<int64_t>(starts.size()), max_computations));
  while (found < max_computations && !frontier_.empty()) {
    const Vertex nearest = frontier_.pop();
    const int64_t degree = graph.end(nearest) - graph.begin(nearest);
    if (degree > static_cast<int64_t>(batch_.size())) {
      batch_.resize(degree);
      sq_dist_.resize(degree);
    }
    // About half of the vertices were seen before, unpredictably, so the loop avoids a branch.
    int64_t fresh = 0;
    for (const Vertex* edge = graph.begin(nearest); edge != graph.end(nearest); ++edge) {
      batch_[fresh] = *edge;
      fresh += seen_[*edge] != search_;
      seen_[*edge] = search_;
    }
    measure(std::min(fresh, max_computations - found));
  }
  measured_.resize(found);
  return measured_;
}

}  // namespace hardmine::fanng
