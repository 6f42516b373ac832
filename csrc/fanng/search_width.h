// How wide a search has to be, measured on the graph.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/engine/thread_pool.h"
#include "fanng/build_stats.h"
#include "fanng/near_lists.h"
#include "fanng/search.h"

namespace hardmine::fanng {

// The recall of the default width, on the rows from which it is measured. The recall that users are promised is lower
// by two standard errors of such a sample.
inline constexpr double kTargetRecall = 0.97;

// How a search treats the vertex of a row that it holds out, `sq_dist` from its last neighbor of interest. The edges of
// the vertex lead straight to those neighbors, which no edges of a graph without it do. So they are followed only after
// those of vertices up to 1.25 times as far as that neighbor. At 1.0 times, searches among rows without structure found
// 0.65 of the neighbors where those for new queries found 0.41; at 1.25 times 0.42. A vertex without the row would
// still exist if it has copies.
Displaced displaced_if_alone(const PointSet& points, Vertex vertex, float sq_dist);

// The starts that a search of limited computations measures: all, unless they would take more than half of these.
std::vector<Vertex> scanned_starts(const Graph& graph, int64_t max_computations);

// A vertex, and how far its last neighbor of each of kWidthLists is; for a shorter set, its last neighbor.
struct Sample {
  Vertex vertex = kNoVertex;
  std::array<float, kWidthLists.size()> farthest = {};
};

// Draws vertices, and finds their exact neighbors: in `exact`, unless it is null or its lists are too short. None if
// there are fewer than two vertices.
std::vector<Sample> drawn_samples(const PointSet& points, const NearLists* exact, uint64_t seed,
                                  const cpu::ThreadPool& pool, BuildStats& stats);

// The share of the longest of kWidthLists, or of the lists' length if that is less, that the lists of the samples hold.
double list_recall(const std::vector<Sample>& samples, const NearLists& lists);

// The widths with which searches for the samples find kTargetRecall of their nearest other vertices, and of the
// vertices themselves. The searches start at the starts of the graph, and hold the vertex out. They are of
// `first_width` first, then of wider ones while these find too few. The result does not depend on `first_width`.
inline constexpr int64_t kFirstWidth = 128;
Widths calibrated_widths(const Graph& graph, const PointSet& points, const std::vector<Sample>& samples,
                         int64_t first_width, const cpu::ThreadPool& pool, BuildStats& stats);

// A first width that probably suffices for a graph over much the same points as one of these widths.
int64_t wider_than(const Widths& widths);

// The width for lists of k rows, between those that were measured. At least 16, and k.
int64_t default_width(const Widths& widths, int64_t k);

}  // namespace hardmine::fanng
