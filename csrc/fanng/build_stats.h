// What a build did, and what it measured.
#pragma once

#include <array>
#include <cstdint>

namespace hardmine::fanng {

// Widths of searches that find kTargetRecall of the nearest kWidthLists[i] rows of a new query.
inline constexpr std::array<int64_t, 3> kWidthLists = {1, 10, 50};
using Widths = std::array<int64_t, 3>;

struct BuildStats {
  int64_t traversals = 0;
  double success_rate = 0;        // of traversals over the final graph
  double build_success_rate = 0;  // of the last traversals of the build, over a graph with more edges
  int64_t distance_computations = 0;
  // The success rate that the points allow. It is 1 unless this build, or the one that it was warm-started from, used
  // all kDefaultTraversals per vertex without reaching its target.
  double reachable = 1;
  int64_t components = 0;        // strongly connected, before connect
  int64_t connecting_edges = 0;  // that connect added
  Widths widths = {};
  double list_recall = 0;  // of the lists of the build, on a sample; 0 without lists
};

}  // namespace hardmine::fanng
