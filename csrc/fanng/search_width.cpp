#include "fanng/search_width.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "core/random.h"
#include "cpu/engine/knn.h"
#include "fanng/connectivity.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kSamples = 256;
constexpr float kBeyond = 1.5625F;                  // 1.25^2
constexpr uint64_t kFirstDraw = uint64_t{3} << 62;  // beyond the draws of any build
constexpr int64_t kNotFound = std::numeric_limits<int64_t>::max();
constexpr size_t kLists = kWidthLists.size();

// The least widths that find a sample and its neighbors.
struct SampleWidths {
  int64_t own = kNotFound;
  std::array<std::vector<int64_t>, kLists> neighbor;
};

int64_t wanted_of(int64_t list, int64_t count) { return std::min(kWidthLists[list], count - 1); }

// Fills the widths from a search of `width`, which finds what narrower ones do. Returns the computations.
int64_t measure(const Graph& graph, const PointSet& points, int64_t width, const Sample& sample, SearchSpace& space,
                SampleWidths& widths) {
  const Displaced held_out = displaced_if_alone(points, sample.vertex, sample.farthest[kLists / 2]);
  std::vector<Traced> traced;
  std::vector<float> query(points.stride());
  points.prepare_vertex(sample.vertex, query.data());
  space.nearest(graph, points, query.data(), graph.starts, width, held_out, &traced);
  widths = {};
  if (points.metric() == Metric::kDot) widths.own = 1;  // a row need not be the best answer for itself
  for (const Traced& found : traced) {
    if (vertex_of(found.vertex) == sample.vertex) {
      widths.own = std::min(widths.own, found.width);
      continue;
    }
    for (size_t list = 0; list < kLists; ++list)
      if (sq_dist_of(found.vertex) <= sample.farthest[list] &&
          std::ssize(widths.neighbor[list]) < wanted_of(list, points.vertices()))
        widths.neighbor[list].push_back(found.width);
  }
  for (size_t list = 0; list < kLists; ++list)
    widths.neighbor[list].resize(wanted_of(list, points.vertices()), kNotFound);
  return static_cast<int64_t>(traced.size());
}

// The least width that reaches kTargetRecall, or kNotFound.
int64_t reached(std::vector<int64_t> widths) {
  const auto enough = static_cast<int64_t>(std::ceil(kTargetRecall * static_cast<double>(widths.size()))) - 1;
  std::nth_element(widths.begin(), widths.begin() + enough, widths.end());
  return widths[enough];
}

// Per sample, the squared distances to its `wanted` nearest other vertices, ascending: [samples, wanted].
std::vector<float> exact_distances(const PointSet& points, const std::vector<Sample>& samples, int64_t wanted,
                                   const cpu::ThreadPool& pool, BuildStats& stats) {
  const int64_t size = std::ssize(samples), stride = points.stride(), k = wanted + 1;  // with the vertex itself
  cpu::Buffer<float> queries(size * stride);
  for (int64_t i = 0; i < size; ++i) points.prepare_vertex(samples[i].vertex, queries.get() + i * stride);
  std::vector<float> similarity(size * k);
  std::vector<int64_t> index(size * k);
  const Matrix<float> all{points.data(), points.vertices()};
  const auto find = [&](int64_t) {
    cpu::knn<float>(points.kind(), {queries.get(), size}, &all, stride, k, false, pool, similarity.data(),
                    index.data());
  };
  // A single worker would run on the calling thread, which has to poll.
  pool.count() == 1 ? pool.run(1, find) : find(0);
  stats.distance_computations += size * points.vertices();
  const Distances distances(points);
  std::vector<float> sq_dist(size * wanted), measured;
  for (int64_t i = 0; i < size; ++i) {
    measured.clear();
    for (int64_t n = 0; n < k; ++n)
      if (const auto other = static_cast<Vertex>(index[i * k + n]); other != samples[i].vertex)
        measured.push_back(distances.to(queries.get() + i * stride, other));
    std::sort(measured.begin(), measured.end());
    std::copy_n(measured.begin(), wanted, sq_dist.begin() + i * wanted);
  }
  return sq_dist;
}

std::vector<float> listed_distances(const std::vector<Sample>& samples, const NearLists& lists, int64_t wanted) {
  std::vector<float> sq_dist(std::ssize(samples) * wanted);
  for (int64_t i = 0; i < std::ssize(samples); ++i)
    std::transform(lists.begin(samples[i].vertex), lists.begin(samples[i].vertex) + wanted,
                   sq_dist.begin() + i * wanted, sq_dist_of);
  return sq_dist;
}

}  // namespace

Displaced displaced_if_alone(const PointSet& points, Vertex vertex, float sq_dist) {
  const bool alone = points.copies_end(vertex) - points.copies_begin(vertex) == 1;
  return {alone ? vertex : kNoVertex, kBeyond * sq_dist};
}

std::vector<Vertex> scanned_starts(const Graph& graph, int64_t max_computations) {
  return thinned(graph.starts, std::max<int64_t>(max_computations / 2, 1));
}

std::vector<Sample> drawn_samples(const PointSet& points, const NearLists* exact, uint64_t seed,
                                  const cpu::ThreadPool& pool, BuildStats& stats) {
  const int64_t count = points.vertices(), size = std::min(kSamples, count);
  const int64_t wanted = wanted_of(kLists - 1, count);
  if (count < 2) return {};
  std::vector<Sample> samples(size);
  for (int64_t i = 0; i < size; ++i) samples[i].vertex = random_vertex(random_bits(seed, kFirstDraw + i), count);
  const std::vector<float> sq_dist = exact && exact->length >= wanted
                                         ? listed_distances(samples, *exact, wanted)
                                         : exact_distances(points, samples, wanted, pool, stats);
  for (int64_t i = 0; i < size; ++i)
    for (size_t list = 0; list < kLists; ++list)
      samples[i].farthest[list] = sq_dist[i * wanted + wanted_of(list, count) - 1];
  return samples;
}

double list_recall(const std::vector<Sample>& samples, const NearLists& lists) {
  size_t longest = 0;
  while (longest + 1 < kLists && kWidthLists[longest + 1] <= lists.length) ++longest;
  const int64_t wanted = std::min(kWidthLists[longest], lists.length);
  if (wanted < 1 || samples.empty()) return 0;
  int64_t found = 0;
  for (const Sample& sample : samples) {
    const PackedNeighbor* const list = lists.begin(sample.vertex);
    found += std::count_if(list, list + wanted, [&](PackedNeighbor other) {
      return other != kNoNeighbor && sq_dist_of(other) <= sample.farthest[longest];
    });
  }
  return static_cast<double>(found) / static_cast<double>(wanted * std::ssize(samples));
}

Widths calibrated_widths(const Graph& graph, const PointSet& points, const std::vector<Sample>& samples,
                         int64_t first_width, const cpu::ThreadPool& pool, BuildStats& stats) {
  const int64_t count = points.vertices();
  Widths widths;
  widths.fill(1);
  if (samples.empty()) return widths;
  std::vector<SampleWidths> found(samples.size());
  std::vector<std::unique_ptr<SearchSpace>> spaces(pool.count());
  for (int64_t width = first_width;; width *= 4) {
    std::atomic<int64_t> computed{0};
    parallel_chunks(pool, std::ssize(samples), 1, [&](int64_t worker, int64_t i, int64_t) {
      if (!spaces[worker]) spaces[worker] = std::make_unique<SearchSpace>(count);
      computed += measure(graph, points, width, samples[i], *spaces[worker], found[i]);
    });
    cpu::throw_if_cancelled(pool);
    stats.distance_computations += computed;
    std::vector<int64_t> own;
    for (const SampleWidths& one : found) own.push_back(one.own);
    int64_t least = reached(std::move(own));
    for (size_t list = 0; list < kLists; ++list) {
      std::vector<int64_t> others;
      for (const SampleWidths& one : found)
        others.insert(others.end(), one.neighbor[list].begin(), one.neighbor[list].end());
      widths[list] = least = std::max(least, reached(std::move(others)));
    }
    // All vertices are found by the widest search, since there is a path to each.
    if (widths.back() != kNotFound) return widths;
    if (width >= count) {
      for (int64_t& one : widths) one = std::min(one, count);
      return widths;
    }
  }
}

int64_t wider_than(const Widths& widths) {
  constexpr int64_t kMin = 64, kMax = std::numeric_limits<int32_t>::max();
  const int64_t width = std::min(widths.back(), kMax);
  return std::max(kMin, width + width / 4);
}

int64_t default_width(const Widths& widths, int64_t k) {
  size_t list = 1;
  while (list + 1 < kLists && k > kWidthLists[list]) ++list;
  const auto low = static_cast<double>(kWidthLists[list - 1]), high = static_cast<double>(kWidthLists[list]);
  const auto at_low = static_cast<double>(widths[list - 1]), at_high = static_cast<double>(widths[list]);
  const double width = k <= high ? at_low + (at_high - at_low) * (static_cast<double>(k) - low) / (high - low)
                                 : at_high * static_cast<double>(k) / high;
  constexpr int64_t kMinWidth = 16, kMax = std::numeric_limits<int32_t>::max();
  return std::max({kMinWidth, k, static_cast<int64_t>(std::min(std::ceil(width), static_cast<double>(kMax)))});
}

}  // namespace hardmine::fanng
