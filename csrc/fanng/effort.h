// How many distances a search has to compute, measured on the graph.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/engine/thread_pool.h"
#include "fanng/build.h"

namespace hardmine::fanng {

// The recall of the default effort, on the rows from which it is measured. The recall that users are promised is lower
// by two standard errors of such a sample.
inline constexpr double kTargetRecall = 0.97;

// The starts that a search measures: all, unless they would take more than half of the effort.
std::vector<Vertex> scanned_starts(const Graph& graph, int64_t max_computations);

// The efforts with which searches for sampled vertices find kTargetRecall of their nearest other vertices, and of the
// vertices themselves. The searches start at the starts of the graph, as those for new queries do.
Efforts calibrated_efforts(const Graph& graph, const PointSet& points, uint64_t seed, const cpu::ThreadPool& pool,
                           BuildStats& stats);

// The effort for lists of k rows, between those that were measured. At least 400 and 20 k.
int64_t default_effort(const Efforts& efforts, int64_t k);

}  // namespace hardmine::fanng
