#include "fanng/index.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>

#include "fanng/connectivity.h"
#include "fanng/search_width.h"
#include "fanng/threads.h"
#include "fanng/update.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kCandidatesPerEdge = 2;   // exact neighbors per edge of the final graph
constexpr int64_t kEffortPerCandidate = 5;  // distances computed per candidate
constexpr int64_t kDraftEdgesPerEdge = 2;   // edges of the draft per edge of the final graph

// Up to here a build from all pairs takes about as long as one from leaves, or less: measured at 50 and 128 dimensions.
constexpr int64_t kMaxExact = 110'000;

// The vertices with the longest rows, as many as spread_starts has: many are answers themselves, and all are among
// answers.
std::vector<Vertex> long_starts(const PointSet& points, size_t count) {
  std::vector<std::pair<double, Vertex>> by_norm;
  for (Vertex v = 0; v < static_cast<Vertex>(points.vertices()); ++v)
    by_norm.emplace_back(-points.dot(points.vector(v), v), v);
  std::partial_sort(by_norm.begin(), by_norm.begin() + static_cast<int64_t>(count), by_norm.end());
  std::vector<Vertex> starts;
  for (size_t i = 0; i < count; ++i) starts.push_back(by_norm[i].second);
  return starts;
}

// Truncates and connects the graph over the points, and measures searches of it, which compare with the rows.
Graph finished(const PointSet& points, const PointSet& rows, const DraftGraph& draft, const BuildOptions& options,
               const std::vector<Sample>& samples, const Index* warm, const cpu::ThreadPool& pool, BuildStats& stats) {
  const bool is_dot = rows.metric() == Metric::kDot;
  Graph graph = draft.truncated(options.max_degree);
  connect(points, options, pool, graph, stats);
  graph.starts = spread_starts(graph);
  if (is_dot) graph.starts = long_starts(rows, graph.starts.size());
  stats.widths =
      calibrated_widths(graph, rows, is_dot ? drawn_samples(rows, nullptr, options.seed, pool, stats) : samples,
                        warm ? wider_than(warm->stats().widths) : kFirstWidth, pool, stats);
  stats.success_rate = measured_success_rate(graph, points, options.seed, pool);
  return graph;
}

// Builds the graph over the points, which are those of the rows, inverted for a dot index.
Graph build(const PointSet& points, const PointSet& rows, const BuildOptions& options, Seeding seeding,
            const Index* warm, const cpu::ThreadPool& pool, const BuildProgress& progress, BuildStats& stats,
            std::vector<Vertex>& kept) {
  const int64_t count = points.vertices();
  if (seeding == Seeding::kAuto) seeding = points.vertices() <= kMaxExact ? Seeding::kNearest : Seeding::kLeaves;
  const int64_t capacity =
      seeding == Seeding::kAllEdges ? count : std::min(kDraftEdgesPerEdge * options.max_degree, count);
  const int64_t candidates = kCandidatesPerEdge * options.max_degree;
  DraftGraph draft(count, std::max<int64_t>(capacity, 1));
  const int64_t length = std::min(candidates, kMaxNeighbors);
  NearLists lists;
  if (!warm && seeding == Seeding::kNearest) lists = exact_lists(points, length, pool, stats);
  const std::vector<Sample> samples = drawn_samples(points, &lists, options.seed, pool, stats);
  if (warm) {
    const bool has_lists = warm->list_length() > 0;
    add_edges_of({warm->graph(), warm->points(), warm->lists().data(), warm->list_length()}, points, pool, draft,
                 stats);
    if (options.success_rate > 0 || has_lists) add_reverse_edges(points, pool, draft, stats);
  } else if (seeding == Seeding::kNearest || seeding == Seeding::kLeaves) {
    const auto recall = [&](const NearLists& so_far) { return list_recall(samples, so_far); };
    if (seeding == Seeding::kLeaves) lists = leaf_lists(points, length, options.seed, recall, pool, stats);
    add_edges_of(lists, points, pool, draft, stats);
    stats.list_recall = recall(lists);
    kept.resize(lists.neighbor.size());
    std::transform(lists.neighbor.begin(), lists.neighbor.end(), kept.begin(), vertex_of);
  } else if (seeding == Seeding::kAllEdges) {
    add_all_edges(points, pool, draft, stats);
  }
  // If the last build fell short of its success rate, a warm start targets the rate that it did reach.
  BuildOptions target = options;
  if (warm) {
    stats.reachable = warm->stats().reachable;
    target.success_rate = std::min(options.success_rate, stats.reachable);
  }
  traverse_add(points, target, pool, progress, draft, stats);
  if (stats.build_success_rate < target.success_rate && stats.traversals >= kDefaultTraversals * count)
    stats.reachable = stats.build_success_rate;
  // Reverse edges occlude edges that some traversals need, so they are added only if the build missed its success rate.
  // Then they make searches find more neighbors for the same effort.
  if (stats.traversals > 0 && stats.build_success_rate < options.success_rate)
    add_reverse_edges(points, pool, draft, stats);
  for (int64_t i = 0; i < options.refinements; ++i)
    add_edges_to_found(points, candidates, kEffortPerCandidate * candidates, pool, draft, stats);
  return finished(points, rows, draft, options, samples, warm, pool, stats);
}

std::optional<PointSet> inverted_if_dot(const PointSet& points) {
  return points.metric() == Metric::kDot ? std::optional(points.inverted()) : std::nullopt;
}

void check_graph(const Graph& graph, int64_t vertices) {
  const auto edges = static_cast<int64_t>(graph.target.size());
  if (graph.vertices() != vertices || graph.first_edge.front() != 0 || graph.first_edge.back() != edges ||
      !std::is_sorted(graph.first_edge.begin(), graph.first_edge.end()))
    throw std::invalid_argument("graph: the edges of " + std::to_string(graph.vertices()) + " vertices do not match " +
                                std::to_string(vertices) + " distinct rows and " + std::to_string(edges) + " edges");
  for (Vertex v = 0; v < static_cast<Vertex>(vertices); ++v)
    for (const Vertex* edge = graph.begin(v); edge != graph.end(v); ++edge)
      if (*edge >= static_cast<uint64_t>(vertices) || *edge == v)
        throw std::invalid_argument("graph: vertex " + std::to_string(v) + " of " + std::to_string(vertices) +
                                    " has an edge to " + std::to_string(*edge));
  std::vector<bool> is_start(vertices, false);
  for (const Vertex start : graph.starts) {
    if (start >= static_cast<uint64_t>(vertices) || is_start[start])
      throw std::invalid_argument("graph: searches start at distinct vertices of " + std::to_string(vertices) +
                                  ", got " + std::to_string(start));
    is_start[start] = true;
  }
  if (graph.starts.empty() && vertices > 0) throw std::invalid_argument("graph: no vertex where searches start");
}

void check_lists(const std::vector<Vertex>& lists, int64_t vertices) {
  const auto entries = std::ssize(lists);
  if (vertices == 0 ? entries > 0 : entries % vertices != 0)
    throw std::invalid_argument("lists: " + std::to_string(entries) + " entries do not match " +
                                std::to_string(vertices) + " distinct rows");
  const int64_t length = vertices == 0 ? 0 : entries / vertices;
  for (int64_t i = 0; i < entries; ++i)
    if (lists[i] >= static_cast<uint64_t>(vertices) || lists[i] == static_cast<Vertex>(i / length))
      throw std::invalid_argument("lists: vertex " + std::to_string(i / length) + " of " + std::to_string(vertices) +
                                  " lists " + std::to_string(lists[i]));
}

}  // namespace

Index::Index(const float* vectors, int64_t count, int64_t depth, Metric metric, const BuildOptions& options,
             Seeding seeding, const Index* warm, const cpu::ThreadPool& pool, const BuildProgress& progress)
    : points_(vectors, count, depth, metric) {
  if (warm && warm->points().rows() != count)
    throw std::invalid_argument("init must be an index of " + std::to_string(count) + " rows, got one of " +
                                std::to_string(warm->points().rows()));
  const std::optional<PointSet> inverted = inverted_if_dot(points_);
  graph_ = build(inverted ? *inverted : points_, points_, options, seeding, warm, pool, progress, stats_, lists_);
}

Index::Index(const float* vectors, int64_t count, int64_t depth, Metric metric, Graph graph, std::vector<Vertex> lists,
             const BuildStats& stats)
    : points_(vectors, count, depth, metric), graph_(std::move(graph)), lists_(std::move(lists)), stats_(stats) {
  if (stats_.traversals >= kDefaultTraversals * points_.vertices()) stats_.reachable = stats_.build_success_rate;
  check_graph(graph_, points_.vertices());
  check_lists(lists_, points_.vertices());
}

Index::Index(const Index& before, const float* vectors, int64_t count, const int64_t* source,
             const BuildOptions& options, const cpu::ThreadPool& pool)
    : points_(vectors, count, before.points().depth(), before.points().metric()) {
  const std::optional<PointSet> inverted = inverted_if_dot(points_), inverted_before = inverted_if_dot(before.points());
  const PointSet& points = inverted ? *inverted : points_;
  DraftGraph draft(points.vertices(), std::max<int64_t>(kDraftEdgesPerEdge * options.max_degree, 1));
  const std::vector<Sample> samples = drawn_samples(points, nullptr, options.seed, pool, stats_);
  const VertexMap map = matched_vertices(before.points(), points_, source);
  add_edges_of_changed(before.graph(), inverted_before ? *inverted_before : before.points(), map, points,
                       kCandidatesPerEdge * options.max_degree, options.seed, pool, draft, stats_);
  graph_ = finished(points, points_, draft, options, samples, &before, pool, stats_);
}

}  // namespace hardmine::fanng
