// The graph that a search walks: of every vertex the vertices its edges lead to, nearest first.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "fanng/point_set.h"

namespace hardmine::fanng {

// A vertex at a squared distance from some point, as an integer that orders by distance and then by vertex: the bits
// of floats that are not negative ascend with them.
using PackedNeighbor = uint64_t;
inline PackedNeighbor pack_neighbor(float sq_dist, Vertex v) {
  return uint64_t{std::bit_cast<uint32_t>(sq_dist)} << 32 | v;
}
inline float sq_dist_of(PackedNeighbor r) { return std::bit_cast<float>(static_cast<uint32_t>(r >> 32)); }
inline Vertex vertex_of(PackedNeighbor r) { return static_cast<Vertex>(r); }

struct Graph {
  std::vector<int64_t> first_edge = {0};  // [vertices + 1]
  std::vector<Vertex> target;             // ascending by distance within a vertex

  int64_t vertices() const { return static_cast<int64_t>(first_edge.size()) - 1; }
  const Vertex* begin(Vertex v) const { return target.data() + first_edge[v]; }
  const Vertex* end(Vertex v) const { return target.data() + first_edge[v + 1]; }
};

// All vertices, depth first along the shortest edges: searches begun at one after the other see much the same rows,
// which then are in a near cache. A fifth of the time of 100,000 searches.
std::vector<Vertex> nearby_order(const Graph& graph);

}  // namespace hardmine::fanng
