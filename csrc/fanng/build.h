// Building the graph: FANNG's traverse-add (Harwood and Drummond, CVPR 2016, Alg. 4), from nothing or from a given
// graph, and the naive build (Alg. 1). docs/graph-index.md lists what is reconstructed rather than stated in the paper.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "cpu/engine/thread_pool.h"
#include "fanng/draft_graph.h"
#include "fanng/near_lists.h"

namespace hardmine::fanng {

inline constexpr int64_t kDefaultTraversals = 50;  // per vertex, at most, as in the paper

struct BuildOptions {
  double success_rate = 0.98;
  int64_t max_degree = 30;
  uint64_t seed = 0;
  int64_t max_traversals = 0;  // 0: kDefaultTraversals per vertex, and at least 4,000
  int64_t refinements = 0;     // final passes of add_edges_to_found
};

// Called on the calling thread between rounds, with the success rate of recent traversals. May throw to stop the build.
using BuildProgress = std::function<void(double success_rate, int64_t traversals)>;

// The naive build: for each vertex, adds edges to all others by ascending distance, unless occluded. O(n^2 log n) time,
// O(n) memory per worker.
void add_all_edges(const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph, BuildStats& stats);

// Adds the reverse of each edge, unless occluded. Nearness is not symmetric, so otherwise few edges lead to some
// vertices.
void add_reverse_edges(const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph, BuildStats& stats);

// Replaces the edges by those to the vertices of the lists, and adds their reverses, unless occluded.
void add_edges_of(const NearLists& lists, const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph,
                  BuildStats& stats);

// Refines a graph: adds edges to the `k` nearest neighbors that a backtrack search from each vertex finds with `effort`
// distance computations, and their reverses, unless occluded. Traversals add edges only where they miss their target. A
// near vertex that they reach by a detour gets no edge, which slows down searches among neighbors.
void add_edges_to_found(const PointSet& points, int64_t k, int64_t effort, const cpu::ThreadPool& pool,
                        DraftGraph& graph, BuildStats& stats);

// The edges and lists of a graph over the same rows before they moved.
struct PreviousEdges {
  const Graph& graph;
  const PointSet& points;
  const Vertex* lists = nullptr;  // [vertices, length]; null if the length is 0
  int64_t length = 0;

  std::span<const Vertex> edges(Vertex v) const { return {graph.begin(v), graph.end(v)}; }
  std::span<const Vertex> list(Vertex v) const {
    return length > 0 ? std::span(lists + v * length, length) : std::span<const Vertex>();
  }
};

// Adds edges to the targets of previous edges and to the entries of previous lists. Row i corresponds to row i of the
// points. Distances and occlusion are recomputed.
void add_edges_of(const PreviousEdges& before, const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph,
                  BuildStats& stats);

// Runs traversals between random vertices. Adds an edge where a traversal misses its target, until the success rate of
// the recent traversals is reached.
//
// Traversals run in rounds over an unchanged graph, and edges are added between rounds, per vertex in the order of the
// traversals. The result thus does not depend on the number of threads.
void traverse_add(const PointSet& points, const BuildOptions& options, const cpu::ThreadPool& pool,
                  const BuildProgress& progress, DraftGraph& graph, BuildStats& stats);

// The success rate of traversals over the graph, with other draws than those of traverse_add.
double measured_success_rate(const Graph& graph, const PointSet& points, uint64_t seed, const cpu::ThreadPool& pool);

}  // namespace hardmine::fanng
