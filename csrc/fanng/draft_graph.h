// A graph under construction, and the occlusion rule that keeps it sparse.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "cpu/engine/target.h"
#include "cpu/simd/row_kernels_table.h"
#include "fanng/graph.h"

namespace hardmine::fanng {

// Squared distances between vertices, and from queries to vertices.
class Distances {
 public:
  explicit Distances(const PointSet& points) : points_(points), kernel_(cpu::kernels<cpu::RowKernels<float>>()) {}

  // Fetches the row of a vertex that is compared soon.
  void prefetch(Vertex v) const {
    constexpr int64_t kCacheLine = 64 / sizeof(float), kMaxLines = 8;
    const float* const row = points_.vector(v);
    for (int64_t k = 0; k < std::min(points_.stride(), kMaxLines * kCacheLine); k += kCacheLine)
      __builtin_prefetch(row + k);
  }

  float between(Vertex a, Vertex b) const { return to(points_.vector(a), b); }
  void between(Vertex a, const Vertex* others, int64_t count, float* sq_dist) const {
    to(points_.vector(a), others, count, sq_dist);
  }
  float to(const float* query, Vertex v) const {
    return kernel_.squared_distance(query, points_.vector(v), points_.stride());
  }
  void to(const float* query, const Vertex* vertices, int64_t count, float* sq_dist) const {
    kernel_.squared_distances(query, points_.data(), points_.stride(), vertices, count, sq_dist);
  }

 private:
  const PointSet& points_;
  const cpu::RowKernels<float>& kernel_;
};

// A mutable graph: per vertex at most `capacity` edges, ascending by (squared distance, target).
//
// Occlusion: p has no edge to q if it has one to r with d(p, r) < d(p, q) and d(r, q) < d(p, q), because a search for q
// gets closer through r. Vertices at distance 0, whose rows differ but whose distance underflows, occlude nothing.
class DraftGraph {
 public:
  DraftGraph(int64_t vertices, int64_t capacity) : capacity_(capacity), edges_(vertices) {}

  int64_t vertices() const { return static_cast<int64_t>(edges_.size()); }
  int64_t capacity() const { return capacity_; }
  int64_t degree(Vertex v) const { return static_cast<int64_t>(edges_[v].size()); }
  const PackedNeighbor* begin(Vertex v) const { return edges_[v].data(); }
  const PackedNeighbor* end(Vertex v) const { return begin(v) + degree(v); }

  // Replaces the edges of p by the candidates that no nearer edge occludes. Candidates are in any order, without p; two
  // may be equal. Returns how many distances were computed.
  int64_t assign(Vertex p, std::vector<PackedNeighbor> candidates, const Distances& distances) {
    std::vector<PackedNeighbor>& edges = edges_[p];
    edges.clear();
    edges.reserve(std::min(std::ssize(candidates), kUsualDegree));
    int64_t computed = 0;
    // The nearest candidate that is left is the next edge. It is compared with the others in batches. Most candidates
    // are soon occluded, so finding the nearest of the rest takes less time than sorting all.
    for (int64_t left = std::ssize(candidates); left > 0;) {
      const auto nearest = std::min_element(candidates.begin(), candidates.begin() + left);
      const PackedNeighbor edge = *nearest;
      edges.push_back(edge);
      if (degree(p) == capacity_) break;
      *nearest = candidates[--left];
      const int64_t count = std::exchange(left, 0);
      computed += count;
      for (int64_t first = 0; first < count; first += kBatch) {
        const int64_t batch = std::min(kBatch, count - first);
        Vertex vertex[kBatch];
        float between[kBatch];
        std::transform(candidates.begin() + first, candidates.begin() + first + batch, vertex, vertex_of);
        distances.between(vertex_of(edge), vertex, batch, between);
        for (int64_t i = 0; i < batch; ++i) {
          const PackedNeighbor candidate = candidates[first + i];
          candidates[left] = candidate;
          left += candidate != edge && !(is_shorter(edge, candidate) && between[i] < sq_dist_of(candidate));
        }
      }
    }
    return computed;
  }

  // Replaces the edges of p by those of them and of `others`, ascending, that no earlier one occludes. No edge of p
  // occludes another. Returns how many distances were computed.
  int64_t merge(Vertex p, const std::vector<PackedNeighbor>& others, const Distances& distances) {
    const std::vector<PackedNeighbor> own = std::move(edges_[p]);
    std::vector<PackedNeighbor>& edges = edges_[p];
    edges.clear();
    edges.reserve(own.size() + 1);
    std::vector<PackedNeighbor> accepted;  // of the others
    int64_t computed = 0;
    auto mine = own.begin();
    for (auto other = others.begin(); degree(p) < capacity_ && (mine != own.end() || other != others.end());) {
      if (other == others.end() || (mine != own.end() && *mine <= *other)) {
        if (other != others.end() && *mine == *other) ++other;
        if (!occluded(*mine, accepted.data(), accepted.data() + accepted.size(), distances, computed))
          edges.push_back(*mine);
        ++mine;
      } else {
        if (std::distance(other, others.end()) > kAhead) distances.prefetch(vertex_of(other[kAhead]));
        if (!occluded(*other, begin(p), end(p), distances, computed)) {
          edges.push_back(*other);
          accepted.push_back(*other);
        }
        ++other;
      }
    }
    return computed;
  }

  // Adds the edge p -> q, and removes the longer edges that q occludes. At capacity the longest edge is removed. If
  // may_be_occluded, q is added only if no edge of p occludes it. Returns how many distances were computed.
  int64_t add(Vertex p, PackedNeighbor q, bool may_be_occluded, const Distances& distances) {
    std::vector<PackedNeighbor>& edges = edges_[p];
    const int64_t count = degree(p), place = std::lower_bound(edges.begin(), edges.end(), q) - edges.begin();
    int64_t computed = 0;
    if (place < count && edges[place] == q) return computed;
    if (may_be_occluded && occluded(q, begin(p), begin(p) + place, distances, computed)) return computed;
    edges.push_back(0);
    // Longer edges move up by one, over the edges that q occludes.
    int64_t out = place;
    PackedNeighbor moving = q;
    for (int64_t i = place; i < count; ++i) {
      const PackedNeighbor longer = edges[i];
      if (occludes(q, longer, distances, computed)) continue;
      edges[out++] = moving;
      moving = longer;
    }
    edges[out++] = moving;
    edges.resize(std::min(out, capacity_));
    return computed;
  }

  // The graph of the `max_degree` shortest edges of each vertex.
  Graph truncated(int64_t max_degree) const {
    Graph graph;
    for (Vertex v = 0; v < static_cast<Vertex>(vertices()); ++v) {
      const PackedNeighbor* const last = std::min(end(v), begin(v) + max_degree);
      std::transform(begin(v), last, std::back_inserter(graph.target), vertex_of);
      graph.first_edge.push_back(static_cast<int64_t>(graph.target.size()));
    }
    return graph;
  }

 private:
  static constexpr int64_t kUsualDegree = 16, kBatch = 64;
  static constexpr int64_t kAhead = 2;  // candidates that are fetched before they are compared

  // Whether r can occlude q: it is nearer, but not at distance 0.
  static bool is_shorter(PackedNeighbor r, PackedNeighbor q) {
    return sq_dist_of(r) < sq_dist_of(q) && sq_dist_of(r) != 0;
  }
  // True if r occludes q, both given with their squared distances from one vertex.
  static bool occludes(PackedNeighbor r, PackedNeighbor q, const Distances& distances, int64_t& computed) {
    if (!is_shorter(r, q)) return false;
    ++computed;
    return distances.between(vertex_of(r), vertex_of(q)) < sq_dist_of(q);
  }
  static bool occluded(PackedNeighbor q, const PackedNeighbor* begin, const PackedNeighbor* end,
                       const Distances& distances, int64_t& computed) {
    return std::any_of(begin, end, [&](PackedNeighbor r) { return occludes(r, q, distances, computed); });
  }

  int64_t capacity_;
  std::vector<std::vector<PackedNeighbor>> edges_;
};

}  // namespace hardmine::fanng
