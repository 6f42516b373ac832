#include "fanng/index.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include "cpu/engine/quickselect.h"
#include "fanng/connectivity.h"
#include "fanng/search_width.h"
#include "fanng/threads.h"
#include "fanng/update.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kQueriesPerChunk = 32;
constexpr int64_t kCandidatesPerEdge = 2;   // exact neighbors per edge of the final graph
constexpr int64_t kEffortPerCandidate = 5;  // distances computed per candidate
constexpr int64_t kWarmNeighbors = 15;      // entries of a list of the last build that a warm start considers
constexpr int64_t kDraftEdgesPerEdge = 2;   // edges of the draft per edge of the final graph

// Whether all pairs take less time than leaves: up to 200,000 vertices of 50 dimensions, as measured, and 140,000 of
// 128.
bool exact_is_quicker(const PointSet& points) {
  const auto count = static_cast<double>(points.vertices());
  return count * count * static_cast<double>(points.stride()) <= 2.5e12;
}

// The edges of a graph, and the nearest kWarmNeighbors of its lists: candidates for the edges after a move.
Graph with_neighbors(const Graph& graph, const std::vector<Vertex>& lists, int64_t list_length) {
  Graph both;
  for (Vertex v = 0; v < static_cast<Vertex>(graph.vertices()); ++v) {
    both.target.insert(both.target.end(), graph.begin(v), graph.end(v));
    const auto list = lists.begin() + v * list_length;
    both.target.insert(both.target.end(), list, list + std::min(list_length, kWarmNeighbors));
    both.first_edge.push_back(std::ssize(both.target));
  }
  return both;
}

// Truncates and connects the graph, and measures searches of it.
Graph finished(const PointSet& points, const DraftGraph& draft, const BuildOptions& options,
               const std::vector<Sample>& samples, const cpu::ThreadPool& pool, BuildStats& stats) {
  Graph graph = draft.truncated(options.max_degree);
  connect(points, options, pool, graph, stats);
  graph.starts = spread_starts(graph);
  stats.widths = calibrated_widths(graph, points, samples, pool, stats);
  stats.success_rate = measured_success_rate(graph, points, options.seed, pool);
  return graph;
}

Graph build(const PointSet& points, const BuildOptions& options, Seeding seeding, const Index* warm,
            const cpu::ThreadPool& pool, const BuildProgress& progress, BuildStats& stats, std::vector<Vertex>& kept) {
  const int64_t count = points.vertices();
  if (seeding == Seeding::kAuto) seeding = exact_is_quicker(points) ? Seeding::kNearest : Seeding::kLeaves;
  const int64_t capacity =
      seeding == Seeding::kAllEdges ? count : std::min(kDraftEdgesPerEdge * options.max_degree, count);
  const int64_t candidates = kCandidatesPerEdge * options.max_degree;
  DraftGraph draft(count, std::max<int64_t>(capacity, 1));
  const std::vector<Sample> samples = drawn_samples(points, options.seed, pool, stats);
  if (warm) {
    const bool has_lists = warm->list_length() > 0;
    add_edges_of(has_lists ? with_neighbors(warm->graph(), warm->lists(), warm->list_length()) : warm->graph(),
                 warm->points(), points, pool, draft, stats);
    if (options.success_rate > 0 || has_lists) add_reverse_edges(points, pool, draft, stats);
  } else if (seeding == Seeding::kNearest || seeding == Seeding::kLeaves) {
    const int64_t length = std::min(candidates, kMaxNeighbors);
    const auto recall = [&](const NearLists& lists) { return list_recall(samples, lists); };
    const NearLists lists = seeding == Seeding::kNearest
                                ? exact_lists(points, length, pool, stats)
                                : leaf_lists(points, length, options.seed, recall, pool, stats);
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
  return finished(points, draft, options, samples, pool, stats);
}

// Keeps the `wanted` nearest, in ascending order.
void select_nearest(std::vector<PackedNeighbor>& measured, int64_t wanted) {
  const auto count = static_cast<int64_t>(measured.size());
  if (wanted < count) {
    std::vector<PackedNeighbor> scratch(count);
    for (PackedNeighbor& vertex : measured) vertex = ~vertex;
    cpu::select_largest(measured.data(), scratch.data(), count, wanted);
    measured.resize(wanted);
    for (PackedNeighbor& vertex : measured) vertex = ~vertex;
  }
  std::sort(measured.begin(), measured.end());
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
  graph_ = build(points_, options, seeding, warm, pool, progress, stats_, lists_);
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
  DraftGraph draft(points_.vertices(), std::max<int64_t>(kDraftEdgesPerEdge * options.max_degree, 1));
  const std::vector<Sample> samples = drawn_samples(points_, options.seed, pool, stats_);
  const VertexMap map = matched_vertices(before.points(), points_, source);
  add_edges_of_changed(before.graph(), before.points(), map, points_, kCandidatesPerEdge * options.max_degree,
                       options.seed, pool, draft, stats_);
  graph_ = finished(points_, draft, options, samples, pool, stats_);
}

template <class Body>
void Index::with_spaces(const cpu::ThreadPool& pool, int64_t count, const Body& body) const {
  parallel_chunks(pool, count, kQueriesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::unique_ptr<SearchSpace> space;
    {
      const std::lock_guard lock(spaces_mutex_);
      if (!spaces_.empty()) {
        space = std::move(spaces_.back());
        spaces_.pop_back();
      }
    }
    if (!space) space = std::make_unique<SearchSpace>(points_.vertices());
    for (int64_t i = begin; i < end; ++i) body(*space, i);
    const std::lock_guard lock(spaces_mutex_);
    spaces_.push_back(std::move(space));
  });
}

std::vector<PackedNeighbor>& Index::found_by(SearchSpace& space, const float* query, std::span<const Vertex> starts,
                                             const Limit& limit, int64_t wanted, Displaced displaced) const {
  if (limit.max_computations == 0)
    return space.nearest(graph_, points_, query, starts, std::max(limit.width, wanted), displaced);
  std::vector<PackedNeighbor>& measured =
      space.search(graph_, points_, query, starts, limit.max_computations, displaced);
  select_nearest(measured, wanted);
  return measured;
}

std::vector<Vertex> Index::starts_of(const Limit& limit) const {
  return limit.max_computations == 0 ? graph_.starts : scanned_starts(graph_, limit.max_computations);
}

void Index::report(std::vector<PackedNeighbor>& nearest, int64_t excluded_row, float offset, int64_t query,
                   const Results& results) const {
  const int64_t k = results.k;
  // Each vertex stands for at least one row, and `excluded_row` takes one more place. Vertices are numbered by their
  // first rows, so vertices that tie with the last of these have no lower row.
  const auto wanted = std::min(static_cast<int64_t>(nearest.size()), k + (excluded_row >= 0));
  if (points_.vertices() < points_.rows()) {
    std::vector<PackedNeighbor> rows;
    for (int64_t i = 0; i < wanted; ++i) {
      const bool tie = i > 0 && sq_dist_of(nearest[i]) == sq_dist_of(nearest[i - 1]);
      if (static_cast<int64_t>(rows.size()) > k && !tie) break;
      const int64_t* const first = points_.copies_begin(vertex_of(nearest[i]));
      const int64_t* const last = std::min(points_.copies_end(vertex_of(nearest[i])), first + k + 1);
      for (const int64_t* row = first; row != last; ++row)
        rows.push_back(pack_neighbor(sq_dist_of(nearest[i]), static_cast<uint32_t>(*row)));
    }
    std::sort(rows.begin(), rows.end());
    nearest.swap(rows);
  } else {
    nearest.resize(wanted);
  }
  float* const distance = results.distance + query * k;
  int64_t* const index = results.index + query * k;
  int64_t n = 0;
  for (size_t i = 0; i < nearest.size() && n < k; ++i) {
    const int64_t row = vertex_of(nearest[i]);  // without duplicates, a vertex is its row
    if (row == excluded_row) continue;
    distance[n] = points_.reported(sq_dist_of(nearest[i]) + offset);
    index[n++] = row;
  }
  std::fill(distance + n, distance + k, std::numeric_limits<float>::quiet_NaN());
  std::fill(index + n, index + k, int64_t{-1});
}

void Index::search(const float* queries, int64_t count, const int64_t* start, const Limit& limit,
                   const cpu::ThreadPool& pool, const Results& results) const {
  const int64_t depth = points_.depth(), stride = points_.stride();
  cpu::Buffer<float> prepared(count * stride);
  for (int64_t i = 0; i < count; ++i) {
    if (!points_.prepare(queries + i * depth, prepared.get() + i * stride))
      throw std::invalid_argument("queries must be finite, with finite squared distances, got row " +
                                  std::to_string(i) + " that is not");
    if (start && (start[i] < 0 || start[i] >= points_.rows()))
      throw std::invalid_argument("start must be rows of the index, 0 to " + std::to_string(points_.rows() - 1) +
                                  ", got " + std::to_string(start[i]));
  }
  const std::vector<Vertex> all_starts = starts_of(limit);
  with_spaces(pool, count, [&](SearchSpace& space, int64_t i) {
    const float* query = prepared.get() + i * stride;
    const Vertex given = start ? points_.vertex_of(start[i]) : kNoVertex;
    const std::span<const Vertex> starts = start ? std::span(&given, 1) : std::span(all_starts);
    std::vector<PackedNeighbor>& nearest = found_by(space, query, starts, limit, results.k);
    // A zero query has squared distance 1 from every unit row. It should be 2, as for a stored zero row.
    const bool directionless =
        points_.metric() == Metric::kCosine && std::all_of(query, query + stride, [](float x) { return x == 0; });
    report(nearest, -1, directionless ? 1.0F : 0.0F, i, results);
  });
}

void Index::search_held_out(const int64_t* row, const float* distance, int64_t count, const Limit& limit,
                            const cpu::ThreadPool& pool, const Results& results) const {
  const std::vector<Vertex> starts = starts_of(limit);
  with_spaces(pool, count, [&](SearchSpace& space, int64_t i) {
    const Vertex v = points_.vertex_of(row[i]);
    const Displaced held_out = displaced_if_alone(points_, v, points_.squared(distance[i]));
    report(found_by(space, points_.vector(v), starts, limit, results.k + 1, held_out), row[i], 0.0F, i, results);
  });
}

void Index::listed(int64_t first, int64_t last, const cpu::ThreadPool& pool, const Results& results) const {
  const int64_t length = list_length(), wanted = std::min(results.k, length);
  const Distances distances(points_);
  parallel_chunks(pool, last - first, kQueriesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<float> sq_dist(wanted);
    std::vector<PackedNeighbor> nearest;
    for (int64_t row = first + begin; row < first + end; ++row) {
      const Vertex v = points_.vertex_of(row);
      const Vertex* const list = lists_.data() + v * length;
      distances.to(points_.vector(v), list, wanted, sq_dist.data());
      nearest.assign(1, pack_neighbor(0, v));
      for (int64_t n = 0; n < wanted; ++n) nearest.push_back(pack_neighbor(sq_dist[n], list[n]));
      std::sort(nearest.begin(), nearest.end());
      report(nearest, row, 0.0F, row - first, results);
    }
  });
}

void Index::neighbors(int64_t first, int64_t last, const Limit& limit, const cpu::ThreadPool& pool,
                      const Results& results) const {
  std::vector<int64_t> rows;
  rows.reserve(last - first);
  for (const Vertex v : nearby_order(graph_))
    std::copy_if(points_.copies_begin(v), points_.copies_end(v), std::back_inserter(rows),
                 [&](int64_t row) { return row >= first && row < last; });
  with_spaces(pool, last - first, [&](SearchSpace& space, int64_t i) {
    const int64_t row = rows[i];
    const Vertex v = points_.vertex_of(row);
    report(found_by(space, points_.vector(v), {&v, 1}, limit, results.k + 1), row, 0.0F, row - first, results);
  });
}

}  // namespace hardmine::fanng
