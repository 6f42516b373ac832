// Connectivity of the graph: a path from every vertex to every other, and the vertices where searches start.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/engine/thread_pool.h"
#include "fanng/build.h"

namespace hardmine::fanng {

// A vertex of full degree gets at most so many edges to components that were unreachable, and one more if it represents
// a component that led nowhere.
inline constexpr int64_t kMaxLinks = 2;

// The strongly connected components, numbered so that edges lead to the same or a lower component.
struct Components {
  std::vector<int64_t> of;  // [vertices]
  int64_t count = 0;
};
Components strong_components(const Graph& graph);

// Adds edges until there is a path from every vertex to every other. Pruning and truncation can isolate groups of rows:
// clusters that are tight or tied, and rows that are among nobody's nearest.
//
// The largest component is the core. Each component that no edge leads to gets an edge from the core, from the vertex
// that a search for one of its vertices finds. Each component that no edge leaves gets an edge to the core, found
// likewise. A round links at most as many components as the core has vertices, so that later searches use the links of
// earlier ones. Links do not depend on the number of threads.
void connect(const PointSet& points, const BuildOptions& options, const cpu::ThreadPool& pool, Graph& graph,
             BuildStats& stats);

// About sqrt(V) vertices, spread over the graph: evenly spaced in nearby_order. A search measures them first, and thus
// starts near its query.
std::vector<Vertex> spread_starts(const Graph& graph);

// `count` of the starts, evenly spaced.
std::vector<Vertex> thinned(const std::vector<Vertex>& starts, int64_t count);

}  // namespace hardmine::fanng
