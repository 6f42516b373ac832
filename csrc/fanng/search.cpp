#include "fanng/search.h"

#include <algorithm>

namespace hardmine::fanng {

constexpr int64_t kKeptStarts = 16;  // the nearest, from which a search of limited width goes on

namespace {

PackedNeighbor measured_as(Vertex vertex, float sq_dist, Displaced displaced) {
  return pack_neighbor(vertex == displaced.vertex ? displaced.sq_dist : sq_dist, vertex);
}

}  // namespace

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

void SearchSpace::begin() {
  if (++search_ != 0) return;
  std::fill(seen_.begin(), seen_.end(), 0);  // the number wraps
  search_ = 1;
}

int64_t SearchSpace::gather_unseen(const Graph& graph, Vertex vertex) {
  const int64_t degree = graph.end(vertex) - graph.begin(vertex);
  if (degree > std::ssize(batch_)) batch_.resize(degree);
  if (degree > std::ssize(sq_dist_)) sq_dist_.resize(degree);
  // About half of the vertices were seen before, unpredictably, so the loop avoids a branch.
  int64_t fresh = 0;
  for (const Vertex* edge = graph.begin(vertex); edge != graph.end(vertex); ++edge) {
    batch_[fresh] = *edge;
    fresh += seen_[*edge] != search_;
    seen_[*edge] = search_;
  }
  return fresh;
}

std::vector<PackedNeighbor>& SearchSpace::search(const Graph& graph, const PointSet& points, const float* query,
                                                 std::span<const Vertex> starts, int64_t max_computations,
                                                 Displaced displaced) {
  begin();
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
  sq_dist_.resize(std::max(sq_dist_.size(), starts.size()));
  std::copy(starts.begin(), starts.end(), batch_.begin());
  for (const Vertex start : starts) seen_[start] = search_;
  measure(std::min(static_cast<int64_t>(starts.size()), max_computations));
  while (found < max_computations && !frontier_.empty()) {
    const int64_t fresh = gather_unseen(graph, frontier_.pop());
    measure(std::min(fresh, max_computations - found));
  }
  measured_.resize(found);
  return measured_;
}

std::vector<PackedNeighbor>& SearchSpace::nearest(const Graph& graph, const PointSet& points, const float* query,
                                                  std::span<const Vertex> starts, int64_t width, Displaced displaced,
                                                  std::vector<Traced>* trace) {
  begin();
  const Distances distances(points);
  width = std::max<int64_t>(std::min(width, graph.vertices()), 1);
  int64_t needed = 1;  // the least width of a search that comes as far
  list_.clear(std::min(width, kKeptStarts));
  measure_starts(distances, query, starts, displaced);
  list_.widen(width);
  for (int64_t i = 0; trace && i < list_.size(); ++i) trace->push_back({list_[i], needed});
  while (list_.any_left()) {
    needed = std::max(needed, list_.position() + 1);
    const int64_t fresh = gather_unseen(graph, list_.follow());
    distances.to(query, batch_.data(), fresh, sq_dist_.data());
    for (int64_t i = 0; i < fresh; ++i) {
      const PackedNeighbor measured = measured_as(batch_[i], sq_dist_[i], displaced);
      list_.push(measured);
      if (trace) trace->push_back({measured, needed});
    }
  }
  return listed();
}

std::vector<PackedNeighbor>* SearchSpace::nearest_allowed(const Graph& graph, const PointSet& points,
                                                          const float* query, std::span<const Vertex> starts,
                                                          int64_t width, const AllowedRows& allowed,
                                                          int64_t max_computations) {
  begin();
  const Distances distances(points);
  width = std::max<int64_t>(std::min(width, graph.vertices()), 1);
  frontier_.clear();
  list_.clear(std::min(width, kKeptStarts));
  measure_starts(distances, query, starts, {});
  const std::vector<PackedNeighbor> kept = listed();
  list_.clear(width);
  const auto push = [&](PackedNeighbor measured) {
    if (list_.is_beyond(measured)) return;
    frontier_.push(measured);
    if (allowed.vertex(vertex_of(measured))) list_.push(measured);
  };
  for (const PackedNeighbor start : kept) push(start);
  int64_t computed = std::ssize(starts);
  while (!frontier_.empty() && !list_.is_beyond(frontier_.nearest())) {
    if (computed > max_computations) return nullptr;
    const int64_t fresh = gather_unseen(graph, frontier_.pop());
    distances.to(query, batch_.data(), fresh, sq_dist_.data());
    for (int64_t i = 0; i < fresh; ++i) push(pack_neighbor(sq_dist_[i], batch_[i]));
    computed += fresh;
  }
  return &listed();
}

std::vector<PackedNeighbor>& SearchSpace::scan(const PointSet& points, const float* query,
                                               std::span<const Vertex> vertices, const AllowedRows& allowed) {
  const Distances distances(points);
  batch_.resize(std::max(batch_.size(), vertices.size()));
  sq_dist_.resize(std::max(sq_dist_.size(), vertices.size()));
  const auto end =
      std::copy_if(vertices.begin(), vertices.end(), batch_.begin(), [&](Vertex v) { return allowed.vertex(v); });
  const int64_t count = end - batch_.begin();
  distances.to(query, batch_.data(), count, sq_dist_.data());
  measured_.resize(count);
  for (int64_t i = 0; i < count; ++i) measured_[i] = pack_neighbor(sq_dist_[i], batch_[i]);
  return measured_;
}

void SearchSpace::measure_starts(const Distances& distances, const float* query, std::span<const Vertex> starts,
                                 Displaced displaced) {
  sq_dist_.resize(std::max(sq_dist_.size(), starts.size()));
  distances.to(query, starts.data(), std::ssize(starts), sq_dist_.data());
  for (size_t i = 0; i < starts.size(); ++i) list_.push(measured_as(starts[i], sq_dist_[i], displaced));
  for (int64_t i = 0; i < list_.size(); ++i) seen_[vertex_of(list_[i])] = search_;
}

std::vector<PackedNeighbor>& SearchSpace::listed() {
  measured_.resize(list_.size());
  for (int64_t i = 0; i < list_.size(); ++i) measured_[i] = list_[i];
  return measured_;
}

}  // namespace hardmine::fanng
