#include "fanng/build.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <memory>
#include <numeric>

#include "core/random.h"
#include "fanng/search.h"
#include "fanng/seen_vertices.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kVerticesPerChunk = 64;
constexpr int64_t kMaxCopies = 64;  // rows of a vertex of the previous graph that a warm start considers

// Two different vertices, a function of seed and draw.
struct Traversal {
  Vertex start, target;

  Traversal(uint64_t seed, uint64_t draw, int64_t vertices)
      : start(random_vertex(random_bits(seed, 2 * draw), vertices)),
        target(random_vertex(random_bits(seed, 2 * draw + 1), vertices - 1)) {
    target += target >= start;
  }
};

// The targets of the edges of a vertex. `buffer` holds them if the graph does not store them contiguously.
const Vertex* targets(const Graph& graph, Vertex v, std::vector<Vertex>&) { return graph.begin(v); }
const Vertex* targets(const DraftGraph& graph, Vertex v, std::vector<Vertex>& buffer) {
  buffer.resize(graph.capacity());
  std::transform(graph.begin(v), graph.end(v), buffer.begin(), vertex_of);
  return buffer.data();
}

// Walks over a graph. Owns the buffers for distances.
template <class Walked>
class Walker {
 public:
  Walker(const Walked& graph, const PointSet& points) : graph_(graph), points_(points), distances_(points) {}

  // FANNG's Alg. 2: moves to the neighbor nearest to the target while that neighbor is nearer than the current vertex.
  PackedNeighbor downhill(Vertex start, Vertex target) {
    const float* const query = points_.vector(target);
    PackedNeighbor here = pack_neighbor(distances_.to(query, start), start);
    ++computed;
    while (vertex_of(here) != target) {
      const Vertex v = vertex_of(here);
      const int64_t degree = graph_.end(v) - graph_.begin(v);
      const Vertex* const neighbor = targets(graph_, v, buffer_);
      sq_dist_.resize(std::max<size_t>(sq_dist_.size(), degree));
      distances_.to(query, neighbor, degree, sq_dist_.data());
      computed += degree;
      PackedNeighbor nearest = here;
      for (int64_t e = 0; e < degree; ++e) nearest = std::min(nearest, pack_neighbor(sq_dist_[e], neighbor[e]));
      // Only if strictly nearer: equal distances could form a cycle.
      if (!(sq_dist_of(nearest) < sq_dist_of(here))) break;
      here = nearest;
    }
    return here;
  }

  int64_t computed = 0;

 private:
  const Walked& graph_;
  const PointSet& points_;
  const Distances distances_;
  std::vector<float> sq_dist_;
  std::vector<Vertex> buffer_;
};

struct MissedTarget {
  Vertex from;
  Vertex target;
  float sq_dist;
};

// Replaces the edges of each vertex by the survivors of occlusion among its candidates. collect(worker, vertex,
// candidates) fills the candidates, and returns how many distances it computed.
template <class Collect>
void connect(const PointSet& points, const std::vector<Vertex>& order, const cpu::ThreadPool& pool, DraftGraph& graph,
             BuildStats& stats, const Collect& collect) {
  const Distances distances(points);
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, static_cast<int64_t>(order.size()), kVerticesPerChunk,
                  [&](int64_t worker, int64_t begin, int64_t end) {
                    std::vector<PackedNeighbor> candidates;
                    int64_t computed_here = 0;
                    for (int64_t i = begin; i < end; ++i) {
                      candidates.clear();
                      computed_here += collect(worker, order[i], candidates);
                      computed_here += graph.assign(order[i], candidates, distances);
                    }
                    computed += computed_here;
                  });
  stats.distance_computations += computed;
}

std::vector<Vertex> in_order(int64_t count) {
  std::vector<Vertex> order(count);
  std::iota(order.begin(), order.end(), Vertex{0});
  return order;
}

}  // namespace

void add_reverse_edges(const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph, BuildStats& stats) {
  const std::vector<Vertex> order = in_order(graph.vertices());
  std::vector<int64_t> first_reverse(order.size() + 1, 0);
  for (const Vertex p : order)
    for (const PackedNeighbor* edge = graph.begin(p); edge != graph.end(p); ++edge)
      ++first_reverse[vertex_of(*edge) + 1];
  std::partial_sum(first_reverse.begin(), first_reverse.end(), first_reverse.begin());
  std::vector<PackedNeighbor> reverse(first_reverse.back());
  std::vector<int64_t> next(first_reverse.begin(), first_reverse.end() - 1);
  for (const Vertex p : order)
    for (const PackedNeighbor* edge = graph.begin(p); edge != graph.end(p); ++edge)
      reverse[next[vertex_of(*edge)]++] = pack_neighbor(sq_dist_of(*edge), p);
  const Distances distances(points);
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, graph.vertices(), kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<PackedNeighbor> others;
    int64_t computed_here = 0;
    for (int64_t p = begin; p < end; ++p) {
      others.assign(reverse.begin() + first_reverse[p], reverse.begin() + first_reverse[p + 1]);
      std::sort(others.begin(), others.end());
      computed_here += graph.merge(static_cast<Vertex>(p), others, distances);
    }
    computed += computed_here;
  });
  stats.distance_computations += computed;
}

void add_all_edges(const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph, BuildStats& stats) {
  const Distances distances(points);
  const int64_t count = points.vertices();
  std::vector<std::vector<PackedNeighbor>> candidates_of(pool.count());
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, count, 1, [&](int64_t worker, int64_t p, int64_t) {
    std::vector<PackedNeighbor>& candidates = candidates_of[worker];
    candidates.clear();
    for (int64_t q = 0; q < count; ++q) {
      if (q == p) continue;
      const auto v = static_cast<Vertex>(q);
      candidates.push_back(pack_neighbor(distances.between(static_cast<Vertex>(p), v), v));
    }
    computed += count - 1 + graph.assign(static_cast<Vertex>(p), candidates, distances);
  });
  stats.distance_computations += computed;
}

void add_edges_of(const NearLists& lists, const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph,
                  BuildStats& stats) {
  connect(points, in_order(graph.vertices()), pool, graph, stats,
          [&](int64_t, Vertex p, std::vector<PackedNeighbor>& candidates) {
            const PackedNeighbor* const end = std::find(lists.begin(p), lists.begin(p) + lists.length, kNoNeighbor);
            candidates.assign(lists.begin(p), end);
            return int64_t{0};
          });
  add_reverse_edges(points, pool, graph, stats);
}

void add_edges_to_found(const PointSet& points, int64_t k, int64_t effort, const cpu::ThreadPool& pool,
                        DraftGraph& graph, BuildStats& stats) {
  const Graph before = graph.truncated(graph.capacity());
  std::vector<std::unique_ptr<SearchSpace>> spaces(pool.count());
  connect(points, nearby_order(before), pool, graph, stats,
          [&](int64_t worker, Vertex p, std::vector<PackedNeighbor>& candidates) {
            if (!spaces[worker]) spaces[worker] = std::make_unique<SearchSpace>(before.vertices());
            std::vector<PackedNeighbor>& found =
                spaces[worker]->search(before, points, points.vector(p), {&p, 1}, effort);
            const auto computed = static_cast<int64_t>(found.size());
            std::erase_if(found, [&](PackedNeighbor other) { return vertex_of(other) == p; });
            if (static_cast<int64_t>(found.size()) > k) {
              std::nth_element(found.begin(), found.begin() + k, found.end());
              found.resize(k);
            }
            candidates.assign(graph.begin(p), graph.end(p));
            candidates.insert(candidates.end(), found.begin(), found.end());
            return computed;
          });
  add_reverse_edges(points, pool, graph, stats);
}

void add_edges_of(const PreviousEdges& before, const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph,
                  BuildStats& stats) {
  const Distances distances(points);
  const int64_t count = points.vertices();
  // The vertex that the only row of a previous vertex has now; kNoVertex if that has several rows.
  std::vector<Vertex> now(before.points.vertices());
  for (Vertex v = 0; v < static_cast<Vertex>(now.size()); ++v) {
    const int64_t* const row = before.points.copies_begin(v);
    now[v] = before.points.copies_end(v) - row == 1 ? points.vertex_of(*row) : kNoVertex;
  }
  std::vector<SeenVertices> seen_by(pool.count());
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, count, kVerticesPerChunk, [&](int64_t worker, int64_t begin, int64_t end) {
    SeenVertices& seen = seen_by[worker];
    if (seen.empty()) seen = SeenVertices(count);
    std::vector<Vertex> targets;
    std::vector<float> sq_dist;
    std::vector<PackedNeighbor> candidates;
    int64_t computed_here = 0;
    const auto add = [&](Vertex v) {
      if (seen.add(v)) targets.push_back(v);
    };
    // Adds the duplicates of v, at most kMaxCopies of them from `row` on. All duplicates would take quadratic time if
    // all rows were equal, as after a collapse of the embeddings.
    const auto add_copies = [&](Vertex v, int64_t row) {
      const int64_t* const last = before.points.copies_end(v);
      const int64_t* copy = before.points.copies_begin(v);
      if (last - copy > kMaxCopies) copy = std::lower_bound(copy, last, row);
      for (const int64_t* end = last - copy > kMaxCopies ? copy + kMaxCopies : last; copy != end; ++copy)
        add(points.vertex_of(*copy));
    };
    for (auto p = static_cast<Vertex>(begin); p < static_cast<Vertex>(end); ++p) {
      seen.clear();
      seen.add(p);
      targets.clear();
      // Rows that are duplicates now may have been distinct before, and vice versa.
      for (const int64_t* row = points.copies_begin(p); row != points.copies_end(p); ++row) {
        const Vertex old = before.points.vertex_of(*row);
        add_copies(old, *row);
        for (const std::span<const Vertex> near : {before.edges(old), before.list(old)})
          for (const Vertex target : near) now[target] != kNoVertex ? add(now[target]) : add_copies(target, 0);
      }
      sq_dist.resize(targets.size());
      distances.between(p, targets.data(), std::ssize(targets), sq_dist.data());
      candidates.clear();
      for (size_t i = 0; i < targets.size(); ++i) candidates.push_back(pack_neighbor(sq_dist[i], targets[i]));
      computed_here += std::ssize(targets) + graph.assign(p, candidates, distances);
    }
    computed += computed_here;
  });
  stats.distance_computations += computed;
}

void traverse_add(const PointSet& points, const BuildOptions& options, const cpu::ThreadPool& pool,
                  const BuildProgress& progress, DraftGraph& graph, BuildStats& stats) {
  const Distances distances(points);
  const int64_t count = points.vertices();
  if (count < 2) {
    stats.build_success_rate = 1;  // no pair of vertices
    return;
  }
  if (options.success_rate <= 0) return;
  const int64_t max_traversals =
      options.max_traversals > 0 ? options.max_traversals : std::max<int64_t>(kDefaultTraversals * count, 4000);
  const int64_t round_size = std::max<int64_t>(64, count / 8);
  const int64_t window = std::max<int64_t>(1000, count / 4);
  struct Round {
    int64_t traversals, missed;
  };
  std::deque<Round> recent;
  Round total{0, 0};  // the sum of the recent rounds
  std::vector<MissedTarget> outcome;
  std::atomic<int64_t> computed{0};
  while (stats.traversals < max_traversals) {
    const int64_t first = stats.traversals, size = std::min(round_size, max_traversals - first);
    outcome.resize(size);
    parallel_chunks(pool, size, kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
      Walker walker(graph, points);
      for (int64_t t = begin; t < end; ++t) {
        const Traversal draw(options.seed, first + t, count);
        const PackedNeighbor last = walker.downhill(draw.start, draw.target);
        outcome[t] = {vertex_of(last), draw.target, sq_dist_of(last)};
      }
      computed += walker.computed;
    });

    std::erase_if(outcome, [](const MissedTarget& missed) { return missed.from == missed.target; });
    const auto missed = static_cast<int64_t>(outcome.size());
    std::stable_sort(outcome.begin(), outcome.end(),
                     [](const MissedTarget& a, const MissedTarget& b) { return a.from < b.from; });
    std::vector<int64_t> group = {0};  // where the missed targets of each vertex begin
    for (int64_t i = 1; i <= missed; ++i)
      if (i == missed || outcome[i].from != outcome[i - 1].from) group.push_back(i);
    if (missed == 0) group.clear();
    parallel_chunks(pool, std::max<int64_t>(static_cast<int64_t>(group.size()) - 1, 0), kVerticesPerChunk,
                    [&](int64_t, int64_t begin, int64_t end) {
                      int64_t computed_here = 0;
                      for (int64_t g = begin; g < end; ++g) {
                        for (int64_t i = group[g]; i < group[g + 1]; ++i) {
                          const MissedTarget& add = outcome[i];
                          // The traversal ended at a local minimum, so only edges added since can occlude the new one.
                          computed_here +=
                              graph.add(add.from, pack_neighbor(add.sq_dist, add.target), i > group[g], distances);
                        }
                      }
                      computed += computed_here;
                    });

    stats.traversals += size;
    recent.push_back({size, missed});
    total = {total.traversals + size, total.missed + missed};
    while (total.traversals - recent.front().traversals >= window) {
      total = {total.traversals - recent.front().traversals, total.missed - recent.front().missed};
      recent.pop_front();
    }
    stats.build_success_rate = 1 - static_cast<double>(total.missed) / static_cast<double>(total.traversals);
    progress(stats.build_success_rate, stats.traversals);
    if (total.traversals >= std::min(window, max_traversals) && stats.build_success_rate >= options.success_rate) break;
  }
  stats.distance_computations += computed;
}

double measured_success_rate(const Graph& graph, const PointSet& points, uint64_t seed, const cpu::ThreadPool& pool) {
  const int64_t count = points.vertices();
  if (count < 2) return 1;
  constexpr uint64_t kFirstDraw = uint64_t{1} << 62;  // beyond the draws of any build
  const int64_t traversals = std::clamp<int64_t>(count / 4, 1000, 4000);
  std::atomic<int64_t> arrived{0};
  parallel_chunks(pool, traversals, kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    Walker walker(graph, points);
    int64_t computed_here = 0;
    for (int64_t t = begin; t < end; ++t) {
      const Traversal draw(seed, kFirstDraw + t, count);
      computed_here += vertex_of(walker.downhill(draw.start, draw.target)) == draw.target;
    }
    arrived += computed_here;
  });
  return static_cast<double>(arrived) / static_cast<double>(traversals);
}

}  // namespace hardmine::fanng
