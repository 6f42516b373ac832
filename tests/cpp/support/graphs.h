// Shared by the tests of the graph index: sets of points, plain versions of the definitions, comparisons.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "fanng/index.h"
#include "support/check.h"
#include "support/samples.h"
#include "support/thread_pools.h"

namespace hardmine::test {

using fanng::DraftGraph;
using fanng::Graph;
using fanng::Metric;
using fanng::pack_neighbor;
using fanng::PackedNeighbor;
using fanng::PointSet;
using fanng::sq_dist_of;
using fanng::Vertex;
using fanng::vertex_of;

inline constexpr Metric kMetrics[] = {Metric::kEuclidean, Metric::kCosine};
inline std::string name_of(Metric metric) {
  return metric == Metric::kDot ? "dot" : metric == Metric::kCosine ? "cosine" : "euclidean";
}

inline const fanng::BuildProgress kNobodyAsks = [](double, int64_t) {};

struct Cloud {
  int64_t count, depth;
  Metric metric;
  std::vector<float> x;  // [count, depth]

  PointSet points() const { return {x.data(), count, depth, metric}; }
  const float* row(int64_t i) const { return x.data() + i * depth; }
};

// Points whose squared distances are exact in float, also in the stored form, and tie often. Some are duplicates.
inline Cloud exact_cloud(Metric metric, int64_t count, int64_t depth, Random& random) {
  const Values values = metric == Metric::kCosine ? Values::kExactNorms : Values::kIntegers;
  return {count, depth, metric, make_rows<float>(values, count, depth, random)};
}

inline Cloud real_cloud(Metric metric, int64_t count, int64_t depth, Random& random) {
  return {count, depth, metric, make_rows<float>(Values::kReals, count, depth, random)};
}

inline fanng::Index built(const Cloud& cloud, const fanng::BuildOptions& options = {},
                          fanng::Seeding seeding = fanng::Seeding::kNothing, const fanng::Index* warm = nullptr,
                          const cpu::ThreadPool& pool = SerialPool()) {
  return {cloud.x.data(), cloud.count, cloud.depth, cloud.metric, options, seeding, warm, pool, kNobodyAsks};
}

// An index with all edges that occlusion keeps, so that every walk arrives.
inline fanng::Index naive_index(const Cloud& cloud) {
  return built(cloud, {.success_rate = 0, .max_degree = 65535}, fanng::Seeding::kAllEdges);
}

// Squared distance of stored rows in double.
inline double exact_sq_dist(const PointSet& points, Vertex a, Vertex b) {
  double sum = 0;
  for (int64_t k = 0; k < points.stride(); ++k) {
    const double difference = static_cast<double>(points.vector(a)[k]) - static_cast<double>(points.vector(b)[k]);
    sum += difference * difference;
  }
  return sum;
}
inline PackedNeighbor edge_between(const PointSet& points, Vertex from, Vertex to) {
  return pack_neighbor(static_cast<float>(exact_sq_dist(points, from, to)), to);
}

using Edges = std::vector<PackedNeighbor>;
inline Edges edges_of(const DraftGraph& graph, Vertex v) { return {graph.begin(v), graph.end(v)}; }

// The definition: r, a neighbor of p, occludes q.
inline bool hides(const PointSet& points, Vertex p, Vertex r, Vertex q) {
  const double far = exact_sq_dist(points, p, q), near = exact_sq_dist(points, p, r);
  return near > 0 && near < far && exact_sq_dist(points, r, q) < far;
}
inline bool hidden(const PointSet& points, Vertex p, const Edges& edges, PackedNeighbor q) {
  return std::any_of(edges.begin(), edges.end(),
                     [&](PackedNeighbor r) { return hides(points, p, vertex_of(r), vertex_of(q)); });
}

// The candidates, nearest first, without those that a kept one occludes; at most `room`.
inline Edges pruned(const PointSet& points, Vertex p, Edges candidates, int64_t room) {
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  Edges kept;
  for (const PackedNeighbor q : candidates)
    if (static_cast<int64_t>(kept.size()) < room && vertex_of(q) != p && !hidden(points, p, kept, q)) kept.push_back(q);
  return kept;
}

inline std::vector<Edges> all_edges(const DraftGraph& graph) {
  std::vector<Edges> edges;
  for (Vertex v = 0; v < graph.vertices(); ++v) edges.push_back(edges_of(graph, v));
  return edges;
}

// Downhill search as in the paper: to the neighbor nearest to the target, as long as it is nearer.
template <class NeighborsOf>
Vertex walk_downhill(const PointSet& points, Vertex start, Vertex target, const NeighborsOf& neighbors_of) {
  for (Vertex here = start;;) {
    Vertex next = here;
    for (const Vertex u : neighbors_of(here))
      if (exact_sq_dist(points, u, target) < exact_sq_dist(points, next, target)) next = u;
    if (next == here) return here;
    here = next;
  }
}
inline std::vector<Vertex> targets_of(const Graph& graph, Vertex v) { return {graph.begin(v), graph.end(v)}; }

inline bool same_graph(const Graph& a, const Graph& b) { return a.first_edge == b.first_edge && a.target == b.target; }

// A query as it is compared with stored rows.
inline std::vector<float> stored_form(const PointSet& points, const float* query) {
  std::vector<float> form(points.stride());
  CHECK(points.prepare(query, form.data()));
  return form;
}

// Results of searches.
struct Found {
  int64_t k;
  std::vector<float> distance;
  std::vector<int64_t> index;

  Found(int64_t queries, int64_t k) : k(k), distance(queries * k, 5.0F), index(queries * k, 77) {}
  fanng::Results view() { return {k, distance.data(), index.data()}; }
  std::vector<int64_t> row(int64_t query) const { return {index.begin() + query * k, index.begin() + (query + 1) * k}; }
  bool same(const Found& other) const { return index == other.index && same_bits(distance, other.distance); }
};

inline Found searched(const fanng::Index& index, const std::vector<float>& queries, int64_t k,
                      const fanng::Limit& limit, const std::vector<int64_t>* start = nullptr,
                      const cpu::ThreadPool& pool = SerialPool()) {
  const auto count = static_cast<int64_t>(queries.size()) / index.points().depth();
  Found found(count, k);
  index.search(queries.data(), count, start ? start->data() : nullptr, limit, {}, pool, found.view());
  return found;
}
inline Found searched(const fanng::Index& index, const std::vector<float>& queries, int64_t k, int64_t max_computations,
                      const std::vector<int64_t>* start = nullptr, const cpu::ThreadPool& pool = SerialPool()) {
  return searched(index, queries, k, fanng::Limit{.max_computations = max_computations}, start, pool);
}
inline Found listed(const fanng::Index& index, int64_t k, const fanng::Limit& limit,
                    const cpu::ThreadPool& pool = SerialPool()) {
  Found found(index.points().rows(), k);
  index.neighbors(0, index.points().rows(), limit, pool, found.view());
  return found;
}
inline Found listed(const fanng::Index& index, int64_t k, int64_t max_computations,
                    const cpu::ThreadPool& pool = SerialPool()) {
  return listed(index, k, fanng::Limit{.max_computations = max_computations}, pool);
}

}  // namespace hardmine::test
