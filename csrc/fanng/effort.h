// How many distances a search has to compute, measured on the graph.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/engine/thread_pool.h"
#include "fanng/build.h"
#include "fanng/search.h"

namespace hardmine::fanng {

// The recall of the default effort, on the rows from which it is measured. The recall that users are promised is lower
// by two standard errors of such a sample.
inline constexpr double kTargetRecall = 0.97;

// How a search treats the vertex of a row that it holds out, `sq_dist` from its last neighbor of interest. The edges of
// the vertex lead straight to those neighbors, which no edges of a graph without it do. So they are followed only after
// those of vertices up to 1.25 times as far as that neighbor. At 1.0 times, searches among rows without structure found
// 0.65 of the neighbors where those for new queries found 0.41; at 1.25 times 0.42. A vertex without the row would
// still exist if it has copies.
Displaced displaced_if_alone(const PointSet& points, Vertex vertex, float sq_dist);

// The starts that a search measures: all, unless they would take more than half of the effort.
std::vector<Vertex> scanned_starts(const Graph& graph, int64_t max_computations);

// The efforts with which searches for sampled vertices find kTargetRecall of their nearest other vertices, and of the
// vertices themselves. The searches start at the starts of the graph, and hold the vertex out.
Efforts calibrated_efforts(const Graph& graph, const PointSet& points, uint64_t seed, const cpu::ThreadPool& pool,
                           BuildStats& stats);

// The effort for lists of k rows, between those that were measured. At least 400 and 20 k.
int64_t default_effort(const Efforts& efforts, int64_t k);

}  // namespace hardmine::fanng
