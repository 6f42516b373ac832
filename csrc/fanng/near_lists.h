// Lists of the vertices that are nearest to each vertex: exact, or from overlapping leaves.
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

// Merges `found`, ascending, into an ascending list, without duplicates. `scratch` is reused by consecutive calls.
void merge_into(const std::vector<PackedNeighbor>& found, PackedNeighbor* list, int64_t length,
                std::vector<PackedNeighbor>& scratch);

// Sizes of leaves. Only tests override the defaults.
struct LeafSizes {
  int64_t per_center = 250;  // vertices
  int64_t max_leaf = 16384;
};

// Approximate lists in nearly linear time; exact ones of fewer than 256 * sizes.per_center vertices.
//
// The tile engine compares all pairs within overlapping leaves; see leaves.h. While the lists' recall, which `recall`
// measures, is below 0.98, each vertex is compared with the nearest of its nearest, in both directions, up to three
// times.
using MeasureRecall = std::function<double(const NearLists&)>;
NearLists leaf_lists(const PointSet& points, int64_t length, uint64_t seed, const MeasureRecall& recall,
                     const cpu::ThreadPool& pool, BuildStats& stats, const LeafSizes& sizes = {});

}  // namespace hardmine::fanng
