#include "fanng/update.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <span>

#include "fanng/near_lists.h"
#include "fanng/search.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kVerticesPerChunk = 64;
constexpr size_t kMaxDetour = 12;  // removed vertices that a vertex looks through

// Appends where the edges of `from` lead, through removed vertices. Returns whether there was one.
bool append_remaining(const Graph& old, const VertexMap& map, Vertex from, std::vector<Vertex>& removed,
                      std::vector<Vertex>& targets) {
  removed.assign(1, from);
  for (size_t i = 0; i < removed.size(); ++i) {
    for (const Vertex* edge = old.begin(removed[i]); edge != old.end(removed[i]); ++edge) {
      if (const Vertex now = map.after[*edge]; now != kNoVertex)
        targets.push_back(now);
      else if (removed.size() < kMaxDetour && std::find(removed.begin(), removed.end(), *edge) == removed.end())
        removed.push_back(*edge);
    }
  }
  return removed.size() > 1;
}

// Makes the targets that survive occlusion the edges of p. Returns how many distances it computed.
int64_t assign_measured(Vertex p, std::vector<Vertex>& targets, const PointSet& points, const Distances& distances,
                        std::vector<PackedNeighbor>& candidates, DraftGraph& graph) {
  std::sort(targets.begin(), targets.end());
  targets.erase(std::unique(targets.begin(), targets.end()), targets.end());
  std::erase(targets, p);
  std::vector<float> sq_dist(targets.size());
  distances.to(points.vector(p), targets.data(), std::ssize(targets), sq_dist.data());
  candidates.clear();
  for (size_t i = 0; i < targets.size(); ++i) candidates.push_back(pack_neighbor(sq_dist[i], targets[i]));
  std::sort(candidates.begin(), candidates.end());
  return std::ssize(targets) + graph.assign(p, candidates, distances);
}

// The lists of the new vertices among themselves, by their position in `added`.
NearLists lists_of_added(const PointSet& points, const std::vector<Vertex>& added, int64_t length, uint64_t seed,
                         const cpu::ThreadPool& pool, BuildStats& stats) {
  const int64_t stride = points.stride();
  cpu::Buffer<float> rows(std::ssize(added) * stride);
  for (size_t i = 0; i < added.size(); ++i) std::copy_n(points.vector(added[i]), stride, rows.get() + i * stride);
  // Distances of all metrics are Euclidean ones of stored rows.
  const PointSet among(rows.get(), std::ssize(added), stride, Metric::kEuclidean);
  const auto enough = [](const NearLists&) { return 1.0; };
  return leaf_lists(among, length, seed, enough, pool, stats);
}

}  // namespace

VertexMap matched_vertices(const PointSet& before, const PointSet& after, const int64_t* source) {
  VertexMap map{std::vector<Vertex>(before.vertices(), kNoVertex), std::vector<Vertex>(after.vertices(), kNoVertex)};
  for (int64_t row = 0; row < after.rows(); ++row) {
    if (source[row] < 0) continue;
    map.after[before.vertex_of(source[row])] = after.vertex_of(row);
    map.before[after.vertex_of(row)] = before.vertex_of(source[row]);
  }
  return map;
}

void add_edges_of_changed(const Graph& old, const PointSet& old_points, const VertexMap& map, const PointSet& points,
                          int64_t candidates, uint64_t seed, const cpu::ThreadPool& pool, DraftGraph& graph,
                          BuildStats& stats) {
  const Distances distances(points);
  const int64_t count = points.vertices();
  std::vector<Vertex> added;
  for (Vertex v = 0; v < static_cast<Vertex>(count); ++v)
    if (map.before[v] == kNoVertex) added.push_back(v);
  std::atomic<int64_t> computed{0};
  std::vector<uint8_t> changed(count, 0);
  parallel_chunks(pool, count, kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<Vertex> removed, targets;
    std::vector<PackedNeighbor> measured;
    int64_t computed_here = 0;
    for (auto p = static_cast<Vertex>(begin); p < static_cast<Vertex>(end); ++p) {
      if (map.before[p] == kNoVertex) continue;
      targets.clear();
      changed[p] = append_remaining(old, map, map.before[p], removed, targets);
      computed_here += assign_measured(p, targets, points, distances, measured, graph);
    }
    computed += computed_here;
  });

  const NearLists among = lists_of_added(points, added, candidates, seed, pool, stats);
  const int64_t stride = std::min(points.stride(), old_points.stride());
  // A longer row changes the scale of inverted points.
  const auto scale = static_cast<float>(old_points.longest() > 0 ? old_points.longest() / points.longest() : 1);
  std::vector<std::unique_ptr<SearchSpace>> spaces(pool.count());
  parallel_chunks(pool, std::ssize(added), kVerticesPerChunk, [&](int64_t worker, int64_t begin, int64_t end) {
    if (!spaces[worker]) spaces[worker] = std::make_unique<SearchSpace>(old_points.vertices());
    std::vector<float> query(old_points.stride(), 0.0F);  // a zero row may have added a dimension
    std::vector<Vertex> targets;
    std::vector<PackedNeighbor> measured;
    int64_t computed_here = 0;
    for (int64_t i = begin; i < end; ++i) {
      targets.clear();
      const float* const point = points.vector(added[i]);
      std::transform(point, point + stride, query.begin(), [&](float x) { return x * scale; });
      for (const PackedNeighbor found : spaces[worker]->nearest(old, old_points, query.data(), old.starts, candidates))
        if (const Vertex now = map.after[vertex_of(found)]; now != kNoVertex) targets.push_back(now);
      for (int64_t n = 0; n < among.length; ++n) {
        const PackedNeighbor other = among.begin(static_cast<Vertex>(i))[n];
        if (other != kNoNeighbor) targets.push_back(added[vertex_of(other)]);
      }
      changed[added[i]] = 1;
      computed_here += assign_measured(added[i], targets, points, distances, measured, graph);
    }
    computed += computed_here;
  });
  cpu::throw_if_cancelled(pool);

  // The reverses of the edges of changed vertices, by the vertex that gets them.
  struct Reverse {
    Vertex owner;
    PackedNeighbor edge;
  };
  std::vector<Reverse> reverses;
  for (Vertex p = 0; p < static_cast<Vertex>(count); ++p)
    if (changed[p])
      for (const PackedNeighbor* edge = graph.begin(p); edge != graph.end(p); ++edge)
        reverses.push_back({vertex_of(*edge), pack_neighbor(sq_dist_of(*edge), p)});
  std::stable_sort(reverses.begin(), reverses.end(),
                   [](const Reverse& a, const Reverse& b) { return a.owner < b.owner; });
  std::vector<int64_t> group;  // where the reverses of each owner begin
  for (size_t i = 0; i < reverses.size(); ++i)
    if (i == 0 || reverses[i].owner != reverses[i - 1].owner) group.push_back(static_cast<int64_t>(i));
  const int64_t owners = std::ssize(group);
  group.push_back(std::ssize(reverses));
  parallel_chunks(pool, owners, kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<PackedNeighbor> others;
    int64_t computed_here = 0;
    for (int64_t g = begin; g < end; ++g) {
      const Vertex owner = reverses[group[g]].owner;
      others.clear();
      for (int64_t i = group[g]; i < group[g + 1]; ++i) others.push_back(reverses[i].edge);
      std::sort(others.begin(), others.end());
      computed_here += graph.merge(owner, others, distances);
    }
    computed += computed_here;
  });
  stats.distance_computations += computed;
}

}  // namespace hardmine::fanng
