// Lists of the vertices that are nearest to each vertex: exact, or from leaves of random splits.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "cpu/engine/thread_pool.h"
#include "fanng/build_stats.h"
#include "fanng/graph.h"

namespace hardmine::fanng {

// Per vertex, `length` other vertices, ascending by (squared distance, vertex). kNoNeighbor fills shorter lists.
struct NearLists {
  int64_t length = 0;
  std::vector<PackedNeighbor> neighbor;  // [vertices, length]

  const PackedNeighbor* begin(Vertex v) const { return neighbor.data() + v * length; }
  PackedNeighbor* begin(Vertex v) { return neighbor.data() + v * length; }
};
inline constexpr PackedNeighbor kNoNeighbor = ~PackedNeighbor{0};

// From all pairs, by the tile engine.
NearLists exact_lists(const PointSet& points, int64_t length, const cpu::ThreadPool& pool, BuildStats& stats);

// Approximate lists in nearly linear time.
//
// A round splits the vertices into leaves of at most 2,048: recursively into halves, by their projections on the line
// through two random members. The tile engine compares all pairs within a leaf. The rounds' lists are merged. Then each
// vertex is compared with the nearest of its nearest, in both directions. More rounds and refinements follow until the
// lists' recall, which `recall` measures, is 0.985, or four times.
using MeasureRecall = std::function<double(const NearLists&)>;
NearLists leaf_lists(const PointSet& points, int64_t length, uint64_t seed, const MeasureRecall& recall,
                     const cpu::ThreadPool& pool, BuildStats& stats);

}  // namespace hardmine::fanng
