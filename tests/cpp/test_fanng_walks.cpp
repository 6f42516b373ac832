// Walks of searches: which vertices they measure, and in which order, compared with plain versions.

#include <queue>
#include <set>

#include "fanng/search_width.h"
#include "support/graphs.h"

namespace fanng = hardmine::fanng;  // not all of hardmine, whose Index is a number
using namespace hardmine::test;
using fanng::Index;

namespace {

// Algorithm 3 of the paper, except that all edges of the nearest vertex are taken at once. Returns the vertices that
// the search measures, by distance.
Edges measured_plainly(const Index& index, const float* query, const std::vector<Vertex>& starts, int64_t limit,
                       fanng::Displaced displaced = {}) {
  const PointSet& points = index.points();
  const fanng::Distances distances(points);
  std::priority_queue<PackedNeighbor, Edges, std::greater<>> queue;
  std::vector<bool> visited(points.vertices(), false);
  Edges measured;
  const auto visit = [&](Vertex v) {
    if (visited[v] || static_cast<int64_t>(measured.size()) == limit) return;
    visited[v] = true;
    measured.push_back(pack_neighbor(v == displaced.vertex ? displaced.sq_dist : distances.to(query, v), v));
    queue.push(measured.back());
  };
  for (const Vertex start : starts) visit(start);
  while (!queue.empty()) {
    const Vertex nearest = vertex_of(queue.top());
    queue.pop();
    for (const Vertex target : targets_of(index.graph(), nearest)) visit(target);
  }
  std::sort(measured.begin(), measured.end());
  return measured;
}

// The vertices that a search of limited width finds, ascending, and per vertex the edges that it follows, in order.
Edges found_plainly(const Index& index, const float* query, const std::vector<Vertex>& starts, int64_t width,
                    std::vector<Vertex>& followed) {
  const fanng::Distances distances(index.points());
  std::set<PackedNeighbor> list;
  std::set<Vertex> seen, done;
  const auto offer = [&](Vertex v, int64_t room) {
    list.insert(pack_neighbor(distances.to(query, v), v));
    if (static_cast<int64_t>(list.size()) > room) list.erase(std::prev(list.end()));
  };
  for (const Vertex start : starts) offer(start, std::min<int64_t>(width, 16));
  for (const PackedNeighbor kept : list) seen.insert(vertex_of(kept));
  for (;;) {
    const auto next =
        std::find_if(list.begin(), list.end(), [&](PackedNeighbor r) { return !done.contains(vertex_of(r)); });
    if (next == list.end()) return {list.begin(), list.end()};
    const Vertex nearest = vertex_of(*next);
    done.insert(nearest);
    followed.push_back(nearest);
    for (const Vertex target : targets_of(index.graph(), nearest))
      if (seen.insert(target).second) offer(target, width);
  }
}

}  // namespace

TEST(frontier_any_pushes_pops_nearest) {
  Random random(5);
  for (const int64_t pushes : {3, 64, 65, 70, 200, 1000}) {
    for (const int64_t pops_in_ten : {0, 1, 4, 9}) {
      context = std::to_string(pushes) + " pushes, " + std::to_string(pops_in_ten) + " pops in ten";
      fanng::Frontier frontier;
      std::priority_queue<PackedNeighbor, std::vector<PackedNeighbor>, std::greater<>> plain;
      const auto pop = [&] {
        CHECK_EQ(frontier.pop(), vertex_of(plain.top()));
        plain.pop();
      };
      for (int round = 0; round < 3; ++round) {
        frontier.clear();
        while (!plain.empty()) plain.pop();
        for (int64_t i = 0; i < pushes; ++i) {
          // Ascending at first, so that each is farther than all in the near part.
          const auto distance = static_cast<float>(i < 100 ? static_cast<double>(i) : 100 * random.unit());
          frontier.push(fanng::pack_neighbor(distance, static_cast<Vertex>(i)));
          plain.push(fanng::pack_neighbor(distance, static_cast<Vertex>(i)));
          if (10 * random.unit() < static_cast<double>(pops_in_ten) && !frontier.empty()) pop();
        }
        while (!frontier.empty()) pop();
        CHECK(plain.empty());
      }
    }
  }
}

TEST(search_any_width_follows_the_nearest_found) {
  int64_t partial = 0;
  for (const Metric metric : kMetrics) {
    for (const bool exact : {true, false}) {
      Random random(6);
      const Cloud cloud = exact ? exact_cloud(metric, 600, 3, random) : real_cloud(metric, 600, 9, random);
      const Index index = built(cloud, {.success_rate = 0, .max_degree = 5}, fanng::Seeding::kNearest);
      const PointSet& points = index.points();
      const Cloud queries = exact ? exact_cloud(metric, 12, 3, random) : real_cloud(metric, 12, 9, random);
      fanng::SearchSpace space(points.vertices());
      for (int64_t i = 0; i < 12; ++i) {
        const std::vector<float> form = stored_form(points, queries.row(i));
        std::vector<Vertex> before;
        std::vector<fanng::Traced> trace;
        space.nearest(index.graph(), points, form.data(), index.graph().starts, 1000, {}, &trace);
        for (const int64_t width : {1, 2, 7, 15, 16, 17, 40, 1000}) {
          context = name_of(metric) + ", width " + std::to_string(width) + ", query " + std::to_string(i);
          std::vector<Vertex> followed;
          const Edges want = found_plainly(index, form.data(), index.graph().starts, width, followed);
          CHECK(space.nearest(index.graph(), points, form.data(), index.graph().starts, width) == want);
          // A wider search follows the same edges first.
          CHECK(before.size() <= followed.size() && std::equal(before.begin(), before.end(), followed.begin()));
          before = followed;
          // The trace of the widest search tells what this one finds.
          Edges traced;
          for (const fanng::Traced& found : trace)
            if (found.width <= width) traced.push_back(found.vertex);
          std::sort(traced.begin(), traced.end());
          CHECK(std::equal(want.begin(), want.end(), traced.begin()));
          partial += static_cast<int64_t>(want.size()) < points.vertices();
        }
      }
    }
  }
  CHECK(partial > 100);
}

TEST(search_effort_limits_measured_vertices) {
  for (const Metric metric : kMetrics) {
    Random random(4);
    const Cloud cloud = real_cloud(metric, 300, 6, random);
    const Index index = naive_index(cloud);
    CHECK_EQ(index.points().vertices(), int64_t{300});
    const Cloud queries = real_cloud(metric, 5, 6, random);
    for (const int64_t limit : {1, 2, 10, 150, 299, 300, 301, 5000}) {
      context = name_of(metric) + ", effort " + std::to_string(limit);
      // Every measured vertex is reported, because k is large enough.
      for (const Found& found : {searched(index, queries.x, 400, limit), listed(index, 400, limit)}) {
        const int64_t queried = static_cast<int64_t>(found.index.size()) / 400;
        for (int64_t i = 0; i < queried; ++i) {
          const std::vector<int64_t> row = found.row(i);
          const int64_t reported = std::count_if(row.begin(), row.end(), [](int64_t j) { return j >= 0; });
          // The own row is measured but not reported.
          CHECK_EQ(reported, std::min<int64_t>(limit, 300) - (queried == 300));
        }
      }
    }
  }
}

TEST(search_any_effort_measures_as_paper_does) {
  int64_t partial = 0;
  for (const Metric metric : kMetrics) {
    for (const bool exact : {true, false}) {
      Random random(6);
      const Cloud cloud = exact ? exact_cloud(metric, 200, 3, random) : real_cloud(metric, 200, 9, random);
      const Index index = built(cloud, {.max_degree = 5});
      const PointSet& points = index.points();
      // Ties are ordered by vertex.
      const Cloud queries = exact ? exact_cloud(metric, 12, 3, random) : real_cloud(metric, 12, 9, random);
      for (const int64_t limit : {1, 2, 7, 30, 90, 1000}) {
        std::vector<int64_t> start;
        for (int64_t i = 0; i < 12; ++i) start.push_back(random.below(200));
        const Found found = searched(index, queries.x, 250, limit, &start);
        for (int64_t i = 0; i < 12; ++i) {
          context = name_of(metric) + ", effort " + std::to_string(limit) + ", query " + std::to_string(i);
          const std::vector<float> form = stored_form(points, queries.row(i));
          const bool zero = std::all_of(form.begin(), form.end(), [](float value) { return value == 0; });
          const float offset = zero && metric == Metric::kCosine ? 1.0F : 0.0F;  // of a query without direction
          const Edges want = measured_plainly(index, form.data(), {points.vertex_of(start[i])}, limit);
          std::vector<std::pair<float, int64_t>> rows, got;
          for (const PackedNeighbor vertex : want)
            for (const int64_t* row = points.copies_begin(vertex_of(vertex));
                 row != points.copies_end(vertex_of(vertex)); ++row)
              rows.emplace_back(points.reported(sq_dist_of(vertex) + offset), *row);
          for (int64_t n = 0; n < 250 && found.row(i)[n] >= 0; ++n)
            got.emplace_back(found.distance[i * 250 + n], found.row(i)[n]);
          CHECK(std::is_sorted(got.begin(), got.end(), [](auto& a, auto& b) { return a.first < b.first; }));
          std::sort(rows.begin(), rows.end());
          std::sort(got.begin(), got.end());
          CHECK(got == rows);
          partial += static_cast<int64_t>(want.size()) < points.vertices();
        }
      }
    }
  }
  CHECK(partial > 100);
}

TEST(search_held_out_row_follows_its_edges_late) {
  for (const Metric metric : kMetrics) {
    Random random(6);
    Cloud cloud = real_cloud(metric, 200, 6, random);
    std::copy_n(cloud.row(3), 6, cloud.x.begin() + 6 * 150);  // row 3 has a copy
    const Index index = built(cloud, {.max_degree = 5});
    const PointSet& points = index.points();
    const std::vector<int64_t> rows = {3, 7, 90, 199};
    const std::vector<float> distance = {0.5F, 0.25F, 1, 0};
    for (const int64_t limit : {1, 20, 60, 1000}) {
      Found found(4, 199);
      index.search_held_out(rows.data(), distance.data(), 4, {.max_computations = limit}, SerialPool(), found.view());
      for (int64_t i = 0; i < 4; ++i) {
        context = name_of(metric) + ", effort " + std::to_string(limit) + ", row " + std::to_string(rows[i]);
        const Vertex v = points.vertex_of(rows[i]);
        const float sq_dist = metric == Metric::kCosine ? 2 * distance[i] : distance[i] * distance[i];
        const Edges want =
            measured_plainly(index, points.vector(v), fanng::scanned_starts(index.graph(), limit), limit,
                             i == 0 ? fanng::Displaced{} : fanng::displaced_if_alone(points, v, sq_dist));
        std::set<int64_t> expected, got;
        for (const PackedNeighbor r : want)
          expected.insert(points.copies_begin(vertex_of(r)), points.copies_end(vertex_of(r)));
        expected.erase(rows[i]);
        for (const int64_t row : found.row(i))
          if (row >= 0) got.insert(row);
        CHECK(got == expected);
      }
    }
  }
}

TEST(search_effort_1_returns_start) {
  Random random(2);
  const Cloud cloud = real_cloud(Metric::kEuclidean, 50, 4, random);
  const Index index = built(cloud);
  std::vector<int64_t> start(50);
  for (int64_t i = 0; i < 50; ++i) start[i] = (i * 7 + 3) % 50;
  const Found found = searched(index, cloud.x, 2, 1, &start);
  for (int64_t i = 0; i < 50; ++i) CHECK((found.row(i) == std::vector<int64_t>{start[i], -1}));
}

TEST(search_without_start_measures_spread_starts_first) {
  for (const Metric metric : kMetrics) {
    Random random(2);
    const Cloud cloud = real_cloud(metric, 400, 4, random);
    const Index index = built(cloud);
    const std::vector<Vertex>& starts = index.graph().starts;
    CHECK_EQ(starts.size(), size_t{20});  // the root of 400
    const auto measured = [&](int64_t limit) {
      const std::vector<int64_t> row = searched(index, {1, 2, 3, 4}, 400, limit).row(0);
      return std::set<int64_t>(row.begin(), std::find(row.begin(), row.end(), -1));
    };
    // Half of the effort at most, evenly spaced.
    CHECK((measured(1) == std::set<int64_t>{starts[0]}));
    const std::set<int64_t> ten = measured(10);
    for (const int64_t n : {0, 4, 8, 12, 16}) CHECK(ten.contains(starts[n]));
    CHECK(!ten.contains(starts[1]) || !ten.contains(starts[3]));
    const std::set<int64_t> forty = measured(40);
    for (const Vertex start : starts) CHECK(forty.contains(start));
    CHECK_EQ(forty.size(), size_t{40});
  }
}

TEST(search_allowed_walks_through_excluded_vertices) {
  for (const Metric metric : {Metric::kEuclidean, Metric::kCosine, Metric::kDot}) {
    Random random(8);
    const Index index = built(real_cloud(metric, 600, 8, random), {.success_rate = 0}, fanng::Seeding::kNearest);
    const PointSet& points = index.points();
    const Graph& graph = index.graph();
    const Cloud queries = real_cloud(metric, 10, 8, random);
    fanng::SearchSpace space(points.vertices());
    std::vector<Vertex> all(points.vertices());
    for (Vertex v = 0; v < all.size(); ++v) all[v] = v;
    std::vector<uint8_t> mask(600);
    for (int64_t r = 0; r < 600; ++r) mask[r] = r % 5 == 0;
    std::vector<int64_t> row_id(600), query_id(10);
    for (int64_t r = 0; r < 600; ++r) row_id[r] = r % 7 - 1;
    for (int64_t i = 0; i < 10; ++i) query_id[i] = i - 1;  // -1 stands for none
    for (int64_t i = 0; i < 10; ++i) {
      context = name_of(metric) + ", query " + std::to_string(i);
      std::vector<float> form(points.stride());
      CHECK(points.prepare(queries.row(i), form.data()));
      const fanng::AllowedRows everything(points, -1);
      for (const int64_t width : {1, 9, 40}) {
        const Edges want = space.nearest(graph, points, form.data(), graph.starts, width);
        Edges* const found = space.nearest_allowed(graph, points, form.data(), graph.starts, width, everything, 9999);
        CHECK(found && *found == want);
      }
      for (const fanng::RowFilter& filter :
           {fanng::RowFilter{mask.data(), nullptr, nullptr}, fanng::RowFilter{nullptr, row_id.data(), query_id.data()},
            fanng::RowFilter{mask.data(), row_id.data(), query_id.data()}}) {
        const fanng::AllowedRows allowed(points, filter, i);
        const fanng::RemainingRows remaining(points, filter);
        Edges want = space.scan(points, form.data(), all, allowed);
        std::sort(want.begin(), want.end());
        int64_t count = 0;
        for (int64_t r = 0; r < 600; ++r)
          count += (!filter.allowed || r % 5 == 0) && (!filter.row_id || query_id[i] < 0 || row_id[r] != query_id[i]);
        CHECK_EQ(std::ssize(want), count);
        CHECK_EQ(remaining.of_query(i), count);
        Edges scanned = space.scan(points, form.data(), remaining.vertices(), allowed);
        std::sort(scanned.begin(), scanned.end());
        CHECK(scanned == want);
        // All allowed vertices are found, since there is a path to each.
        Edges* found = space.nearest_allowed(graph, points, form.data(), graph.starts, 600, allowed, 9999);
        CHECK(found && *found == want);
        found = space.nearest_allowed(graph, points, form.data(), graph.starts, 10, allowed, 9999);
        CHECK(found && std::ssize(*found) == 10);
        CHECK(
            std::all_of(found->begin(), found->end(), [&](PackedNeighbor one) { return allowed.row(vertex_of(one)); }));
        CHECK(!space.nearest_allowed(graph, points, form.data(), graph.starts, 600, allowed, 100));
      }
    }
  }
}
