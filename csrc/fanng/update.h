// A graph over a changed set of points: some rows removed, others added.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/engine/thread_pool.h"
#include "fanng/build.h"

namespace hardmine::fanng {

// Which vertices of two sets of points are the same; kNoVertex where there is none.
struct VertexMap {
  std::vector<Vertex> after;   // per vertex before
  std::vector<Vertex> before;  // per vertex after
};

// Row i of `after` is row source[i] of `before`, or new if that is -1.
VertexMap matched_vertices(const PointSet& before, const PointSet& after, const int64_t* source);

// Adds edges to an empty graph over changed points.
//
// A vertex of the graph before keeps its edges. In place of a removed target it gets those that the target led to. A
// new vertex gets edges to the `candidates` nearest that a search of the graph before finds, and to as many of the
// other new vertices. Their reverses are added, and occluded edges left out.
void add_edges_of_changed(const Graph& old, const PointSet& old_points, const VertexMap& map, const PointSet& points,
                          int64_t candidates, uint64_t seed, const cpu::ThreadPool& pool, DraftGraph& graph,
                          BuildStats& stats);

}  // namespace hardmine::fanng
