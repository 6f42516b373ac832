// Overlapping leaves: groups of near vertices, so that two near vertices share one nearly always.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "cpu/engine/thread_pool.h"
#include "fanng/build_stats.h"
#include "fanng/near_lists.h"

namespace hardmine::fanng {

// Many small leaves per vertex find more than few large ones: among 400,000 words, 14 leaves around the nearest of
// 1,600 centers hold 0.982 of the 50 nearest in 33,000 pairs per vertex, and 8 around the nearest of 400 hold 0.973 in
// 43,000.
inline constexpr int64_t kLeavesPerVertex = 14;

// Per vertex, the numbers of its nearest centers, nearest first; ~v instead of those that are too far to measure.
using NearCenters = std::vector<std::array<uint32_t, kLeavesPerVertex>>;

// The centers are those of k-means over a sample, one per sizes.per_center vertices, at least kLeavesPerVertex.
NearCenters near_centers(const PointSet& points, uint64_t seed, const LeafSizes& sizes, const cpu::ThreadPool& pool,
                         BuildStats& stats);

struct Leaves {
  std::vector<int64_t> first = {0};  // [leaves + 1], where in `member` each leaf begins
  std::vector<Vertex> member;        // ascending within a leaf
  NearCenters of;                    // per vertex, its leaves in place of their centers

  int64_t count() const { return std::ssize(first) - 1; }
  bool share(Vertex a, Vertex b) const {
    // All pairs, without branches, so that compilers use vectors.
    std::array<uint32_t, kLeavesPerVertex> equal = {};
    for (const uint32_t leaf : of[a])
      for (int64_t n = 0; n < kLeavesPerVertex; ++n) equal[n] |= static_cast<uint32_t>(leaf == of[b][n]);
    uint32_t any = 0;
    for (const uint32_t one : equal) any |= one;
    return any != 0;
  }
};

// A leaf holds the vertices that have a center among their nearest. Halves of a leaf that is too large, by projections
// on the line through two random members, are leaves of their own.
Leaves leaves_around(const PointSet& points, const NearCenters& centers, uint64_t seed, const LeafSizes& sizes);

// Merges the lists of all pairs within each leaf into `lists`. The result does not depend on the order of the leaves.
void compare_within_leaves(const PointSet& points, const Leaves& leaves, const cpu::ThreadPool& pool, NearLists& lists,
                           BuildStats& stats);

}  // namespace hardmine::fanng
