// Building the graph: FANNG's traverse-add (Harwood and Drummond, CVPR 2016, Alg. 4), from nothing or repairing a
// graph that is there, and the naive build (Alg. 1). What is reconstructed rather than read in the paper:
// docs/graph-index.md.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "cpu/engine/thread_pool.h"
#include "fanng/draft_graph.h"

namespace hardmine::fanng {

inline constexpr int64_t kDefaultTraversals = 50;  // at most, for every vertex, as is said of the paper

struct BuildOptions {
  double success_rate = 0.98;
  int64_t max_degree = 30;
  uint64_t seed = 0;
  int64_t max_traversals = 0;  // 0: kDefaultTraversals for every vertex, and at least 4,000
  int64_t refinements = 0;     // passes of add_edges_to_found in the end
};

struct BuildStats {
  int64_t traversals = 0;
  double success_rate = 0;        // of traversals over the graph that the build returned
  double build_success_rate = 0;  // of the last traversals of the build, whose edges are not all in that graph
  int64_t distance_computations = 0;
  // What the points let traversals reach: 1 unless a build from them, or the one that it was warm-started from, made
  // its 50 traversals a vertex and was short of its aim still.
  double reachable = 1;
};

// Called on the calling thread between rounds: the share of recent traversals that succeeded. May throw to stop.
using BuildProgress = std::function<void(double success_rate, int64_t traversals)>;

// The edges of the naive build: for every vertex all others by ascending distance, each added unless occluded.
// O(n^2 log n) time and O(n) memory a worker.
void add_all_edges(const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph, BuildStats& stats);

// Of every edge the reverse joins the edges of its end, as far as none occludes it. Nearness is not mutual, and neither
// is what traversals find: to some vertices few edges lead.
void add_reverse_edges(const PointSet& points, const cpu::ThreadPool& pool, DraftGraph& graph, BuildStats& stats);

// The edges that survive occlusion among every vertex's `k` nearest, found exactly, and among their reverses.
void add_edges_to_nearest(const PointSet& points, int64_t k, const cpu::ThreadPool& pool, DraftGraph& graph,
                          BuildStats& stats);

// Refines a graph: of every vertex the `k` nearest that a backtrack search begun there finds with `effort` distance
// computations, and their reverses, join its edges as far as none occludes them. Traversals add edges only where one
// ends short of its target; near vertices that they reach over a detour have no edge, which costs a search among
// neighbors more than it costs them.
void add_edges_to_found(const PointSet& points, int64_t k, int64_t effort, const cpu::ThreadPool& pool,
                        DraftGraph& graph, BuildStats& stats);

// The edges of another graph, over another set of points: row i of one is row i of the other. Measured and pruned anew.
void add_edges_of(const Graph& other, const PointSet& other_points, const PointSet& points, const cpu::ThreadPool& pool,
                  DraftGraph& graph, BuildStats& stats);

// Traversals between random vertices, adding an edge where one ends short of its target, until the wanted share of the
// recent ones arrives.
//
// Traversals run in rounds, each over the graph as the round found it, so that the result does not depend on the
// number of workers; what they add is added by start vertex, in the order of the traversals.
void traverse_add(const PointSet& points, const BuildOptions& options, const cpu::ThreadPool& pool,
                  const BuildProgress& progress, DraftGraph& graph, BuildStats& stats);

// The share of some traversals, of other draws than those of traverse_add, that arrive.
double measured_success_rate(const Graph& graph, const PointSet& points, uint64_t seed, const cpu::ThreadPool& pool);

}  // namespace hardmine::fanng
