// A graph under construction, and the occlusion rule that keeps it sparse.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../cpu/simd.h"
#include "graph.h"

namespace hardmine::fanng {

// Distances between the vertices of a set.
class Distances {
 public:
  explicit Distances(const PointSet& points) : points_(points), kernel_(cpu::kernels<float>()) {}

  float between(Vertex a, Vertex b) const { return to(points_.vector(a), b); }
  float to(const float* query, Vertex v) const {
    return kernel_.squared_distance(query, points_.vector(v), points_.stride());
  }
  void to(const float* query, const Vertex* vertices, int64_t count, float* sq_dist) const {
    kernel_.squared_distances(query, points_.data(), points_.stride(), vertices, count, sq_dist);
  }

 private:
  const PointSet& points_;
  const cpu::Kernels<float>& kernel_;
};

// Edges ascending by (squared distance, target), at most `capacity` a vertex.
//
// Occlusion: p has no edge to q if it has one to r with d(p, r) < d(p, q) and d(r, q) < d(p, q): who looks for q gets
// closer through r. Vertices at distance 0 occlude nothing (distinct rows whose distance underflows).
class DraftGraph {
 public:
  DraftGraph(int64_t vertices, int64_t capacity)
      : capacity_(capacity), edges_(static_cast<size_t>(vertices * capacity)), degree_(vertices, 0) {}

  int64_t vertices() const { return static_cast<int64_t>(degree_.size()); }
  int64_t capacity() const { return capacity_; }
  int64_t degree(Vertex v) const { return degree_[v]; }
  const Ranked* begin(Vertex v) const { return edges_.data() + static_cast<int64_t>(v) * capacity_; }
  const Ranked* end(Vertex v) const { return begin(v) + degree_[v]; }

  // Replaces the edges of p by those of `candidates` that none before them occludes. `candidates` ascend, without
  // duplicates and without p. Returns how many distances were computed.
  int64_t assign(Vertex p, const std::vector<Ranked>& candidates, const Distances& distances) {
    Ranked* const first = edges_.data() + static_cast<int64_t>(p) * capacity_;
    int64_t computed = 0, kept = 0;
    for (const Ranked candidate : candidates) {
      if (kept == capacity_) break;
      if (!occluded(candidate, first, first + kept, distances, computed)) first[kept++] = candidate;
    }
    degree_[p] = static_cast<int32_t>(kept);
    return computed;
  }

  // Adds p -> q and drops the longer edges that q occludes. If p has no room, its longest edge makes it. `fresh`: no
  // edge of p is known not to occlude the new one, so that this is to be seen first.
  int64_t add(Vertex p, Ranked q, bool fresh, const Distances& distances) {
    Ranked* const first = edges_.data() + static_cast<int64_t>(p) * capacity_;
    Ranked* const last = first + degree_[p];
    Ranked* const place = std::lower_bound(first, last, q);
    int64_t computed = 0;
    if (place != last && *place == q) return computed;
    if (fresh && occluded(q, first, place, distances, computed)) return computed;
    // Longer edges move up by one, over those that q occludes.
    Ranked* out = place;
    Ranked moving = q;
    for (Ranked* edge = place; edge != last; ++edge) {
      const Ranked longer = *edge;
      if (occludes(q, longer, distances, computed)) continue;
      *out++ = moving;
      moving = longer;
    }
    if (out != first + capacity_) *out++ = moving;
    degree_[p] = static_cast<int32_t>(out - first);
    return computed;
  }

  // The nearest `most` edges of every vertex.
  Graph truncated(int64_t most) const {
    Graph graph;
    for (Vertex v = 0; v < static_cast<Vertex>(vertices()); ++v) {
      const Ranked* const last = std::min(end(v), begin(v) + most);
      std::transform(begin(v), last, std::back_inserter(graph.target), vertex_of);
      graph.first_edge.push_back(static_cast<int64_t>(graph.target.size()));
    }
    return graph;
  }

 private:
  // Whether r, an edge of some p, occludes q, a vertex at a distance from p.
  static bool occludes(Ranked r, Ranked q, const Distances& distances, int64_t& computed) {
    const float far = sq_dist_of(q);
    if (!(sq_dist_of(r) < far) || sq_dist_of(r) == 0) return false;
    ++computed;
    return distances.between(vertex_of(r), vertex_of(q)) < far;
  }
  static bool occluded(Ranked q, const Ranked* begin, const Ranked* end, const Distances& distances,
                       int64_t& computed) {
    return std::any_of(begin, end, [&](Ranked r) { return occludes(r, q, distances, computed); });
  }

  int64_t capacity_;
  std::vector<Ranked> edges_;
  std::vector<int32_t> degree_;
};

}  // namespace hardmine::fanng
