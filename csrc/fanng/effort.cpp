#include "fanng/effort.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "core/random.h"
#include "fanng/connectivity.h"
#include "fanng/search.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kSamples = 256;
constexpr float kBeyond = 1.5625F;                  // 1.25^2
constexpr uint64_t kFirstDraw = uint64_t{3} << 62;  // beyond the draws of any build

// At which distance computation a search for a vertex finds it, and, per list length, each of the nearest others.
struct Found {
  int64_t own = 0;
  std::array<std::vector<int64_t>, kEffortLists.size()> others;
};

// Fills `found`, and returns how many distances it computed.
int64_t measure(const Graph& graph, const PointSet& points, Vertex vertex, SearchSpace& space, Found& found) {
  const int64_t count = points.vertices();
  const Distances distances(points);
  std::vector<float> sq_dist;
  sq_dist.reserve(count);
  for (Vertex v = 0; v < static_cast<Vertex>(count); ++v)
    if (v != vertex) sq_dist.push_back(distances.between(vertex, v));
  Efforts wanted;
  std::array<float, kEffortLists.size()> farthest;
  for (size_t list = kEffortLists.size(); list-- > 0;) {  // the longest list first
    wanted[list] = std::min(kEffortLists[list], count - 1);
    std::nth_element(sq_dist.begin(), sq_dist.begin() + (wanted[list] - 1), sq_dist.end());
    farthest[list] = sq_dist[wanted[list] - 1];
    sq_dist.resize(wanted[list]);
  }
  int64_t computed = count;
  const Displaced held_out = displaced_if_alone(points, vertex, farthest[kEffortLists.size() / 2]);
  // A search of greater effort repeats those of less effort, as long as it measures all starts.
  for (int64_t effort = std::max<int64_t>(2 * static_cast<int64_t>(graph.starts.size()), 256);; effort *= 4) {
    const std::vector<PackedNeighbor>& measured =
        space.search(graph, points, points.vector(vertex), graph.starts, effort, held_out);
    computed += static_cast<int64_t>(measured.size());
    found = {};
    for (size_t n = 0; n < measured.size(); ++n) {
      const auto position = static_cast<int64_t>(n) + 1;
      if (vertex_of(measured[n]) == vertex) {
        found.own = position;
        continue;
      }
      for (size_t list = 0; list < kEffortLists.size(); ++list)
        if (sq_dist_of(measured[n]) <= farthest[list] && std::ssize(found.others[list]) < wanted[list])
          found.others[list].push_back(position);
    }
    if ((found.own > 0 && std::ssize(found.others.back()) == wanted.back()) || effort >= count) return computed;
  }
}

}  // namespace

Displaced displaced_if_alone(const PointSet& points, Vertex vertex, float sq_dist) {
  const bool alone = points.copies_end(vertex) - points.copies_begin(vertex) == 1;
  return {alone ? vertex : kNoVertex, kBeyond * sq_dist};
}

std::vector<Vertex> scanned_starts(const Graph& graph, int64_t max_computations) {
  return thinned(graph.starts, std::max<int64_t>(max_computations / 2, 1));
}

Efforts calibrated_efforts(const Graph& graph, const PointSet& points, uint64_t seed, const cpu::ThreadPool& pool,
                           BuildStats& stats) {
  const int64_t count = points.vertices();
  Efforts efforts;
  efforts.fill(std::max<int64_t>(count, 1));
  if (count < 2) return efforts;
  const int64_t samples = std::min(kSamples, count);
  std::vector<Found> found(samples);
  std::vector<std::unique_ptr<SearchSpace>> spaces(pool.count());
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, samples, 1, [&](int64_t worker, int64_t i, int64_t) {
    if (!spaces[worker]) spaces[worker] = std::make_unique<SearchSpace>(count);
    const Vertex vertex = random_vertex(random_bits(seed, kFirstDraw + i), count);
    computed += measure(graph, points, vertex, *spaces[worker], found[i]);
  });
  stats.distance_computations += computed;
  // All vertices are found, since there is a path to each.
  const auto reached = [](std::vector<int64_t> positions) {
    const auto enough = static_cast<int64_t>(std::ceil(kTargetRecall * static_cast<double>(positions.size()))) - 1;
    std::nth_element(positions.begin(), positions.begin() + enough, positions.end());
    return positions[enough];
  };
  std::vector<int64_t> own;
  for (const Found& one : found) own.push_back(one.own);
  int64_t effort = std::max(2 * static_cast<int64_t>(graph.starts.size()), reached(std::move(own)));
  for (size_t list = 0; list < kEffortLists.size(); ++list) {
    std::vector<int64_t> others;
    for (const Found& one : found) others.insert(others.end(), one.others[list].begin(), one.others[list].end());
    efforts[list] = effort = std::max(effort, reached(std::move(others)));
  }
  return efforts;
}

int64_t default_effort(const Efforts& efforts, int64_t k) {
  const int64_t least = std::max<int64_t>(400, 20 * k);
  size_t list = 1;
  while (list + 1 < kEffortLists.size() && k > kEffortLists[list]) ++list;
  const auto low = static_cast<double>(kEffortLists[list - 1]), high = static_cast<double>(kEffortLists[list]);
  const auto at_low = static_cast<double>(efforts[list - 1]), at_high = static_cast<double>(efforts[list]);
  const double effort = k <= high ? at_low + (at_high - at_low) * (static_cast<double>(k) - low) / (high - low)
                                  : at_high * static_cast<double>(k) / high;
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  return std::max(least, static_cast<int64_t>(std::min(std::ceil(effort), static_cast<double>(kMax))));
}

}  // namespace hardmine::fanng
