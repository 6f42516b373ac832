#include "fanng/connectivity.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>

#include "core/random.h"
#include "fanng/search.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kLinkEffort = 400;      // distances computed per search for a link, beyond those to the starts
constexpr int64_t kLinkCandidates = 16;   // found vertices that a link may use
constexpr int64_t kSearchesPerChunk = 8;  // searches cost about the same

struct Edge {
  Vertex from;
  PackedNeighbor to;
};

// Inserts the edges, each in its place by (squared distance, target).
void insert_edges(const Distances& distances, std::vector<Edge> edges, Graph& graph) {
  std::sort(edges.begin(), edges.end(),
            [](const Edge& a, const Edge& b) { return a.from != b.from ? a.from < b.from : a.to < b.to; });
  Graph merged;
  merged.first_edge.reserve(graph.first_edge.size());
  merged.target.reserve(graph.target.size() + edges.size());
  auto edge = edges.begin();
  std::vector<PackedNeighbor> neighbors;
  for (Vertex v = 0; v < static_cast<Vertex>(graph.vertices()); ++v) {
    if (edge == edges.end() || edge->from != v) {
      merged.target.insert(merged.target.end(), graph.begin(v), graph.end(v));
    } else {
      neighbors.clear();
      for (const Vertex* target = graph.begin(v); target != graph.end(v); ++target)
        neighbors.push_back(pack_neighbor(distances.between(v, *target), *target));
      for (; edge != edges.end() && edge->from == v; ++edge) neighbors.push_back(edge->to);
      std::sort(neighbors.begin(), neighbors.end());
      neighbors.erase(std::unique(neighbors.begin(), neighbors.end()), neighbors.end());
      std::transform(neighbors.begin(), neighbors.end(), std::back_inserter(merged.target), vertex_of);
    }
    merged.first_edge.push_back(static_cast<int64_t>(merged.target.size()));
  }
  graph = std::move(merged);
}

// A component other than the core that lacks edges in or out.
struct Loose {
  Vertex vertex;  // represents the component
  bool unreached, leads_nowhere;
};

// The loose components, in random order, by a representative each.
std::vector<Loose> loose_components(const Graph& graph, const Components& components, Vertex core, uint64_t seed) {
  std::vector<Vertex> representative(components.count, kNoVertex);
  std::vector<bool> reached(components.count, false), leaves(components.count, false);
  for (Vertex v = 0; v < static_cast<Vertex>(graph.vertices()); ++v) {
    const int64_t own = components.of[v];
    representative[own] = std::min(representative[own], v);
    for (const Vertex* target = graph.begin(v); target != graph.end(v); ++target) {
      if (components.of[*target] == own) continue;
      reached[components.of[*target]] = true;
      leaves[own] = true;
    }
  }
  std::vector<Loose> loose;
  for (int64_t c = 0; c < components.count; ++c)
    if (c != components.of[core] && (!reached[c] || !leaves[c]))
      loose.push_back({representative[c], !reached[c], !leaves[c]});
  const auto key = [&](const Loose& one) { return std::make_pair(random_bits(seed, one.vertex), one.vertex); };
  std::sort(loose.begin(), loose.end(), [&](const Loose& a, const Loose& b) { return key(a) < key(b); });
  return loose;
}

// The first vertex of the largest component.
Vertex core_vertex(const Components& components) {
  std::vector<int64_t> size(components.count, 0);
  for (const int64_t c : components.of) ++size[c];
  const int64_t largest = *std::max_element(size.begin(), size.end());
  const auto first =
      std::find_if(components.of.begin(), components.of.end(), [&](int64_t c) { return size[c] == largest; });
  return static_cast<Vertex>(first - components.of.begin());
}

int64_t root_of(int64_t count) { return static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(count)))); }

}  // namespace

Components strong_components(const Graph& graph) {
  // Tarjan's algorithm, with a stack of its own instead of recursion.
  const int64_t count = graph.vertices();
  constexpr int64_t kUnseen = -1;
  Components components{std::vector<int64_t>(count, kUnseen)};
  std::vector<int64_t> number(count, kUnseen), low(count);  // in order of discovery; the lowest number that v reaches
  std::vector<Vertex> open;                                 // discovered vertices without a component
  struct Frame {
    Vertex vertex;
    const Vertex* edge;
  };
  std::vector<Frame> path;
  int64_t discovered = 0;
  const auto discover = [&](Vertex v) {
    number[v] = low[v] = discovered++;
    open.push_back(v);
    path.push_back({v, graph.begin(v)});
  };
  for (Vertex root = 0; root < static_cast<Vertex>(count); ++root) {
    if (number[root] != kUnseen) continue;
    discover(root);
    while (!path.empty()) {
      const Vertex v = path.back().vertex;
      if (path.back().edge != graph.end(v)) {
        const Vertex target = *path.back().edge++;
        if (number[target] == kUnseen)
          discover(target);
        else if (components.of[target] == kUnseen)
          low[v] = std::min(low[v], number[target]);
        continue;
      }
      path.pop_back();
      if (!path.empty()) low[path.back().vertex] = std::min(low[path.back().vertex], low[v]);
      if (low[v] != number[v]) continue;
      for (Vertex member = kNoVertex; member != v;) {
        member = open.back();
        open.pop_back();
        components.of[member] = components.count;
      }
      ++components.count;
    }
  }
  return components;
}

void connect(const PointSet& points, const BuildOptions& options, const cpu::ThreadPool& pool, Graph& graph,
             BuildStats& stats) {
  const Distances distances(points);
  Components components = strong_components(graph);
  stats.components = components.count;
  if (components.count < 2) return;
  const Vertex core = core_vertex(components);
  const auto edges_before = static_cast<int64_t>(graph.target.size());
  std::vector<int64_t> room(graph.vertices());  // for edges to other components
  for (Vertex v = 0; v < static_cast<Vertex>(graph.vertices()); ++v)
    room[v] = std::max(options.max_degree - (graph.end(v) - graph.begin(v)), kMaxLinks);
  std::atomic<int64_t> computed{0};
  for (; components.count > 1; components = strong_components(graph)) {
    const auto in_core = [&](Vertex v) { return components.of[v] == components.of[core]; };
    std::vector<Vertex> members = nearby_order(graph);
    std::erase_if(members, [&](Vertex v) { return !in_core(v); });
    const std::vector<Vertex> starts = thinned(members, root_of(static_cast<int64_t>(members.size())));

    // Components with edges in but not out come first. Afterwards every component that gets an edge from the core joins
    // the core, which then has room for at least as many edges as it has vertices.
    std::vector<Loose> loose = loose_components(graph, components, core, options.seed);
    const auto ends =
        std::stable_partition(loose.begin(), loose.end(), [](const Loose& one) { return !one.unreached; });
    loose.resize(ends != loose.begin() ? ends - loose.begin() : std::min(loose.size(), members.size()));

    std::vector<std::vector<PackedNeighbor>> found(loose.size());
    std::vector<std::unique_ptr<SearchSpace>> spaces(pool.count());
    parallel_chunks(pool, static_cast<int64_t>(loose.size()), kSearchesPerChunk,
                    [&](int64_t worker, int64_t begin, int64_t end) {
                      if (!spaces[worker]) spaces[worker] = std::make_unique<SearchSpace>(graph.vertices());
                      for (int64_t i = begin; i < end; ++i) {
                        std::vector<PackedNeighbor>& measured =
                            spaces[worker]->search(graph, points, points.vector(loose[i].vertex), starts,
                                                   static_cast<int64_t>(starts.size()) + kLinkEffort);
                        computed += static_cast<int64_t>(measured.size());
                        std::erase_if(measured, [&](PackedNeighbor other) { return !in_core(vertex_of(other)); });
                        const auto kept = std::min(static_cast<int64_t>(measured.size()), kLinkCandidates);
                        std::partial_sort(measured.begin(), measured.begin() + kept, measured.end());
                        found[i].assign(measured.begin(), measured.begin() + kept);
                      }
                    });

    std::vector<Edge> edges;
    const auto has_room = [&](Vertex v) { return room[v] > 0; };
    auto spare = members.begin();
    for (size_t i = 0; i < loose.size(); ++i) {
      const Vertex v = loose[i].vertex;
      if (loose[i].leads_nowhere) edges.push_back({v, found[i].front()});
      if (!loose[i].unreached) continue;
      const auto near =
          std::find_if(found[i].begin(), found[i].end(), [&](PackedNeighbor r) { return has_room(vertex_of(r)); });
      Vertex from;
      if (near != found[i].end()) {
        from = vertex_of(*near);
      } else {
        spare = std::find_if(spare, members.end(), has_room);
        from = *spare;
      }
      --room[from];
      edges.push_back({from, pack_neighbor(distances.between(from, v), v)});
    }
    insert_edges(distances, std::move(edges), graph);
  }
  stats.connecting_edges = static_cast<int64_t>(graph.target.size()) - edges_before;
  stats.distance_computations += computed;
}

std::vector<Vertex> spread_starts(const Graph& graph) {
  return thinned(nearby_order(graph), root_of(graph.vertices()));
}

std::vector<Vertex> thinned(const std::vector<Vertex>& starts, int64_t count) {
  const auto size = static_cast<int64_t>(starts.size());
  if (count >= size) return starts;
  std::vector<Vertex> kept;
  for (int64_t i = 0; i < count; ++i) kept.push_back(starts[i * size / count]);
  return kept;
}

}  // namespace hardmine::fanng
