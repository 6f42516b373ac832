// The searches of an index: for queries, for rows, and from the lists of the build.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu/engine/quickselect.h"
#include "fanng/index.h"
#include "fanng/search_width.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kQueriesPerChunk = 32;
constexpr double kRounding = 1e-5;  // of squared distances of a dot index, relative to the square of the longest norm
constexpr int64_t kScannedPerWalked = 4;  // rows scanned while a walk measures one: 2.8 to 4.9

// A float as an integer that ascends with it, and back.
uint32_t ordered_bits(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return bits >> 31 ? ~bits : bits | uint32_t{1} << 31;
}
float from_ordered_bits(uint32_t bits) {
  return std::bit_cast<float>(bits >> 31 ? bits & ~(uint32_t{1} << 31) : ~bits);
}

constexpr double kNoSlack = -1;

// Keeps the `wanted` nearest, and those at most `slack` farther than all of these, in ascending order.
void select_nearest(std::vector<PackedNeighbor>& measured, int64_t wanted, double slack) {
  const auto count = static_cast<int64_t>(measured.size());
  if (wanted < count) {
    std::vector<PackedNeighbor> scratch(count);
    for (PackedNeighbor& vertex : measured) vertex = ~vertex;
    cpu::select_largest(measured.data(), scratch.data(), count, wanted);
    for (PackedNeighbor& vertex : measured) vertex = ~vertex;
    const double reach = static_cast<double>(sq_dist_of(measured[wanted - 1])) + slack;
    const auto last = measured.begin() + wanted;
    const auto end = slack >= 0
                         ? std::partition(last, measured.end(),
                                          [&](PackedNeighbor r) { return static_cast<double>(sq_dist_of(r)) <= reach; })
                         : last;
    measured.erase(end, measured.end());
  }
  std::sort(measured.begin(), measured.end());
}

}  // namespace

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
  select_nearest(measured, wanted, points_.metric() == Metric::kDot ? rounding() : kNoSlack);
  return measured;
}

std::vector<PackedNeighbor>& Index::found_allowed(SearchSpace& space, const float* query,
                                                  std::span<const Vertex> starts, const Limit& limit, int64_t wanted,
                                                  const AllowedRows& allowed, int64_t rows,
                                                  std::span<const Vertex> remaining) const {
  std::vector<PackedNeighbor>* found = nullptr;
  if (limit.max_computations > 0) {
    found = &space.search(graph_, points_, query, starts, limit.max_computations);
    std::erase_if(*found, [&](PackedNeighbor one) { return !allowed.vertex(vertex_of(one)); });
  } else {
    // A walk meets as many rows per allowed one as there are in all. It goes on no longer than a scan would take.
    const int64_t width = std::max(limit.width, wanted), affordable = rows / kScannedPerWalked;
    const double share = static_cast<double>(rows) / static_cast<double>(std::max<int64_t>(points_.rows(), 1));
    if (static_cast<double>(kComputationsPerWidth * width) < share * static_cast<double>(affordable))
      found = space.nearest_allowed(graph_, points_, query, starts, width, allowed, affordable);
    if (!found) found = &space.scan(points_, query, remaining, allowed);
  }
  // Ties are kept: of two equally far vertices, the later may have the first allowed row.
  select_nearest(*found, wanted, rounding());
  return *found;
}

std::vector<Vertex> Index::starts_of(const Limit& limit) const {
  return limit.max_computations == 0 ? graph_.starts : scanned_starts(graph_, limit.max_computations);
}

double Index::rounding() const { return kRounding * points_.longest() * points_.longest(); }

void Index::measure_dots(std::vector<PackedNeighbor>& nearest, const float* query, int64_t wanted) const {
  if (nearest.empty()) return;
  // Rounding may have put these in another order.
  const auto last = std::min(std::ssize(nearest), std::max<int64_t>(wanted, 1)) - 1;
  const double beyond = static_cast<double>(sq_dist_of(nearest[last])) + rounding();
  std::erase_if(nearest, [&](PackedNeighbor one) { return static_cast<double>(sq_dist_of(one)) > beyond; });
  for (PackedNeighbor& one : nearest) {
    const auto distance = static_cast<float>(0 - points_.dot(query, vertex_of(one)));
    one = uint64_t{ordered_bits(distance)} << 32 | vertex_of(one);
  }
  std::sort(nearest.begin(), nearest.end());
}

void Index::report(std::vector<PackedNeighbor>& nearest, const AllowedRows& allowed, const float* given, float offset,
                   int64_t query, const Results& results) const {
  const int64_t k = results.k;
  const bool is_dot = points_.metric() == Metric::kDot;
  // Each vertex stands for at least one row, and an excluded row takes one more place.
  const int64_t places = k + (allowed.excluded() >= 0);
  if (is_dot) measure_dots(nearest, given, places);
  const auto wanted = std::min(static_cast<int64_t>(nearest.size()), places);
  if (points_.vertices() < points_.rows()) {
    std::vector<PackedNeighbor> rows;
    for (int64_t i = 0; i < std::ssize(nearest); ++i) {
      const bool tie = i > 0 && nearest[i] >> 32 == nearest[i - 1] >> 32;
      if ((i >= wanted || std::ssize(rows) >= k) && !tie) break;
      const Vertex v = vertex_of(nearest[i]);
      int64_t copies = 0;
      for (const int64_t* row = points_.copies_begin(v); row != points_.copies_end(v) && copies < k; ++row) {
        if (!allowed.row(*row)) continue;
        rows.push_back((nearest[i] >> 32 << 32) | static_cast<uint32_t>(*row));
        ++copies;
      }
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
    if (row == allowed.excluded()) continue;
    distance[n] = is_dot ? from_ordered_bits(static_cast<uint32_t>(nearest[i] >> 32))
                         : points_.reported(sq_dist_of(nearest[i]) + offset);
    index[n++] = row;
  }
  std::fill(distance + n, distance + k, std::numeric_limits<float>::quiet_NaN());
  std::fill(index + n, index + k, int64_t{-1});
}

void Index::search(const float* queries, int64_t count, const int64_t* start, const Limit& limit,
                   const RowFilter& filter, const cpu::ThreadPool& pool, const Results& results) const {
  const int64_t depth = points_.depth(), stride = points_.stride();
  cpu::Buffer<float> prepared(count * stride);
  for (int64_t i = 0; i < count; ++i) {
    if (!points_.prepare(queries + i * depth, prepared.get() + i * stride))
      points_.refuse("queries", queries + i * depth, i);
    if (start && (start[i] < 0 || start[i] >= points_.rows()))
      throw std::invalid_argument("start must be rows of the index, 0 to " + std::to_string(points_.rows() - 1) +
                                  ", got " + std::to_string(start[i]));
  }
  const std::vector<Vertex> all_starts = starts_of(limit);
  std::optional<RemainingRows> remaining;
  if (!filter.is_empty()) remaining.emplace(points_, filter);
  with_spaces(pool, count, [&](SearchSpace& space, int64_t i) {
    const float* query = prepared.get() + i * stride;
    const Vertex given = start ? points_.vertex_of(start[i]) : kNoVertex;
    const std::span<const Vertex> starts = start ? std::span(&given, 1) : std::span(all_starts);
    const AllowedRows allowed(points_, filter, i);
    std::vector<PackedNeighbor>& nearest = remaining ? found_allowed(space, query, starts, limit, results.k, allowed,
                                                                     remaining->of_query(i), remaining->vertices())
                                                     : found_by(space, query, starts, limit, results.k);
    // A zero query has squared distance 1 from every unit row. It should be 2, as for a stored zero row.
    const bool directionless =
        points_.metric() == Metric::kCosine && std::all_of(query, query + stride, [](float x) { return x == 0; });
    report(nearest, allowed, queries + i * depth, directionless ? 1.0F : 0.0F, i, results);
  });
}

void Index::search_held_out(const int64_t* row, const float* distance, int64_t count, const Limit& limit,
                            const cpu::ThreadPool& pool, const Results& results) const {
  const std::vector<Vertex> starts = starts_of(limit);
  with_spaces(pool, count, [&](SearchSpace& space, int64_t i) {
    const Vertex v = points_.vertex_of(row[i]);
    const Displaced held_out = displaced_if_alone(points_, v, points_.squared(distance[i], v));
    report_row(space, row[i], starts, limit, held_out, i, results);
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
      report(nearest, {points_, row}, points_.vector(v), 0.0F, row - first, results);
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
  // The best answers of a dot index need not be near the row.
  const std::vector<Vertex> starts = points_.metric() == Metric::kDot ? starts_of(limit) : std::vector<Vertex>();
  with_spaces(pool, last - first, [&](SearchSpace& space, int64_t i) {
    const Vertex v = points_.vertex_of(rows[i]);
    report_row(space, rows[i], starts.empty() ? std::span(&v, 1) : std::span(starts), limit, {}, rows[i] - first,
               results);
  });
}

void Index::report_row(SearchSpace& space, int64_t row, std::span<const Vertex> starts, const Limit& limit,
                       Displaced displaced, int64_t query, const Results& results) const {
  const Vertex v = points_.vertex_of(row);
  std::vector<float> asked(points_.stride());
  points_.prepare_vertex(v, asked.data());
  std::vector<PackedNeighbor>& nearest = found_by(space, asked.data(), starts, limit, results.k + 1, displaced);
  report(nearest, {points_, row}, points_.vector(v), 0.0F, query, results);
}

}  // namespace hardmine::fanng
