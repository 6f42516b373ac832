// Connected graphs, whatever the points, and searches from outside that find what the measured effort promises.

#include <numeric>
#include <set>

#include "fanng/connectivity.h"
#include "fanng/search_width.h"
#include "support/graphs.h"

namespace fanng = hardmine::fanng;  // not all of hardmine, whose Index is a number
using namespace hardmine::test;
using fanng::Components;
using fanng::Index;
using fanng::Seeding;

namespace {

constexpr Seeding kSeedings[] = {Seeding::kNothing, Seeding::kAllEdges, Seeding::kNearest};

Graph graph_of(const std::vector<std::vector<Vertex>>& targets) {
  Graph graph;
  for (const std::vector<Vertex>& one : targets) {
    graph.target.insert(graph.target.end(), one.begin(), one.end());
    graph.first_edge.push_back(static_cast<int64_t>(graph.target.size()));
  }
  return graph;
}

Graph random_graph(int64_t vertices, double edges_per_vertex, Random& random) {
  std::vector<std::vector<Vertex>> targets(vertices);
  for (auto e = static_cast<int64_t>(edges_per_vertex * static_cast<double>(vertices)); e > 0; --e) {
    const int64_t from = random.below(vertices), to = random.below(vertices);
    if (from != to) targets[from].push_back(static_cast<Vertex>(to));
  }
  return graph_of(targets);
}

std::set<Vertex> reached(const Graph& graph, Vertex from) {
  std::set<Vertex> seen = {from};
  for (std::vector<Vertex> open = {from}; !open.empty();) {
    const Vertex v = open.back();
    open.pop_back();
    for (const Vertex target : targets_of(graph, v))
      if (seen.insert(target).second) open.push_back(target);
  }
  return seen;
}

// Points that pruning and truncation tear apart.
struct Hard {
  std::string name;
  Cloud cloud;
};
std::vector<Hard> hard_clouds(Metric metric) {
  Random random(7);
  const auto unit = [&] { return static_cast<float>(2 * random.unit() - 1); };
  std::vector<Hard> all;
  const auto add = [&](const std::string& name, int64_t count, int64_t depth, const auto& value) {
    Cloud cloud{count, depth, metric, std::vector<float>(count * depth)};
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < depth; ++k) cloud.x[i * depth + k] = value(i, k);
    all.push_back({name, std::move(cloud)});
  };
  const Cloud centers = real_cloud(metric, 10, 8, random);
  add("tight clusters", 600, 8, [&](int64_t i, int64_t k) { return centers.row(i % 10)[k] + 1e-3F * unit(); });
  add("clusters of copies", 600, 8,
      [&](int64_t i, int64_t k) { return centers.row(i % 10)[k] + (i % 3 ? 0.0F : 1e-3F * unit()); });
  add("one-hot rows", 150, 150, [](int64_t i, int64_t k) { return i == k ? 1.0F : 0.0F; });
  add("tied clusters", 300, 105,
      [](int64_t i, int64_t k) { return k < 5 ? (i % 5 == k ? 10.0F : 0.0F) : (i / 5 % 100 == k - 5 ? 1.0F : 0.0F); });
  add("rows along a curve", 400, 2, [](int64_t i, int64_t k) {
    const float angle = 0.001F * static_cast<float>(i);
    return k ? std::sin(angle) : std::cos(angle);
  });
  add("isolated rows", 200, 4, [&](int64_t i, int64_t k) {
    return i < 190 ? 1 + 1e-4F * unit() : i % 4 == k ? 1e3F * static_cast<float>(i - 180) : -1.0F;
  });
  add("small integers", 300, 3, [&](int64_t, int64_t) { return static_cast<float>(random.below(3)); });
  return all;
}

}  // namespace

TEST(strong_components_hand_worked_graph_match) {
  // Two cycles, 0 1 2 and 3 4; an edge from the first to the second; 5 leads to 3, 6 is alone.
  const Components found = fanng::strong_components(graph_of({{1}, {2}, {0, 3}, {4}, {3}, {3}, {}}));
  CHECK_EQ(found.count, int64_t{4});
  CHECK((found.of[0] == found.of[1] && found.of[1] == found.of[2]));
  CHECK_EQ(found.of[3], found.of[4]);
  CHECK_EQ(std::set<int64_t>(found.of.begin(), found.of.end()).size(), size_t{4});
  CHECK(found.of[0] > found.of[3] && found.of[5] > found.of[3]);
  CHECK_EQ(fanng::strong_components(Graph()).count, int64_t{0});
}

TEST(strong_components_random_graphs_are_mutual_reachability) {
  Random random(1);
  for (const double edges_per_vertex : {0.5, 1.0, 1.5, 3.0}) {
    for (int round = 0; round < 10; ++round) {
      const Graph graph = random_graph(40, edges_per_vertex, random);
      const Components found = fanng::strong_components(graph);
      std::vector<std::set<Vertex>> from;
      for (Vertex v = 0; v < 40; ++v) from.push_back(reached(graph, v));
      for (Vertex a = 0; a < 40; ++a)
        for (Vertex b = 0; b < 40; ++b) {
          CHECK_EQ(found.of[a] == found.of[b], from[a].contains(b) && from[b].contains(a));
          CHECK(!from[a].contains(b) || found.of[a] >= found.of[b]);
        }
    }
  }
}

TEST(connect_any_graph_reaches_every_vertex_within_degrees) {
  Random random(2);
  for (const Metric metric : kMetrics) {
    const Cloud cloud = real_cloud(metric, 200, 5, random);
    const PointSet points = cloud.points();
    for (const double edges_per_vertex : {0.0, 0.3, 1.0, 2.0}) {
      for (const int64_t max_degree : {1, 2, 30}) {
        context =
            name_of(metric) + ", " + std::to_string(edges_per_vertex) + " edges, degree " + std::to_string(max_degree);
        const Graph before = random_graph(200, edges_per_vertex, random);
        Graph serial;
        for (const auto& pool : parallel_pools()) {
          Graph graph = before;
          fanng::BuildStats stats;
          fanng::connect(points, {.max_degree = max_degree}, *pool, graph, stats);
          CHECK_EQ(stats.components, fanng::strong_components(before).count);
          CHECK_EQ(fanng::strong_components(graph).count, int64_t{1});
          CHECK(stats.connecting_edges <= 2 * (stats.components - 1));
          for (Vertex v = 0; v < 200; ++v) {
            const std::vector<Vertex> had = targets_of(before, v), has = targets_of(graph, v);
            const int64_t degree = static_cast<int64_t>(had.size());
            CHECK(static_cast<int64_t>(has.size()) <= std::max(max_degree, degree + fanng::kMaxLinks) + 1);
            for (const Vertex target : had) CHECK(std::find(has.begin(), has.end(), target) != has.end());
          }
          if (serial.target.empty()) serial = graph;
          CHECK(same_graph(graph, serial));
        }
      }
    }
  }
}

TEST(connect_connected_graph_adds_nothing) {
  Random random(2);
  const Cloud cloud = real_cloud(Metric::kEuclidean, 5, 2, random);
  const Graph before = graph_of({{1}, {2}, {3}, {4}, {0}});
  Graph graph = before;
  fanng::BuildStats stats;
  fanng::connect(cloud.points(), {}, SerialPool(), graph, stats);
  CHECK(same_graph(graph, before));
  CHECK_EQ(stats.components, int64_t{1});
  CHECK_EQ(stats.distance_computations + stats.connecting_edges, int64_t{0});
}

TEST(connect_separate_clusters_links_nearest_vertices) {
  // Three chains on a line, far from each other. Links join their facing ends.
  std::vector<float> x;
  std::vector<std::vector<Vertex>> targets;
  for (Vertex v = 0; v < 30; ++v) {
    x.push_back(static_cast<float>(v + 100 * (v / 10)));
    std::vector<Vertex> both;
    if (v % 10 > 0) both.push_back(v - 1);
    if (v % 10 < 9) both.push_back(v + 1);
    targets.push_back(both);
  }
  targets.push_back({});  // one row at each side
  x.push_back(-50);
  Graph graph = graph_of(targets);
  fanng::BuildStats stats;
  fanng::connect({x.data(), 31, 1, Metric::kEuclidean}, {}, SerialPool(), graph, stats);
  CHECK_EQ(stats.components, int64_t{4});
  CHECK((targets_of(graph, 0) == std::vector<Vertex>{1, 30}));
  CHECK((targets_of(graph, 30) == std::vector<Vertex>{0}));
  const std::vector<Vertex> end = targets_of(graph, 9);
  CHECK(end.size() == 3 || end.size() == 2);
  CHECK(std::find(end.begin(), end.end(), 10) != end.end());
}

TEST(build_hard_points_is_connected) {
  int64_t torn = 0;
  for (const Metric metric : kMetrics) {
    for (const auto& [name, cloud] : hard_clouds(metric)) {
      for (const Seeding seeding : kSeedings) {
        for (const int64_t max_degree : {1, 4, 30}) {
          context = name_of(metric) + ", " + name + ", seeding " + std::to_string(static_cast<int>(seeding)) +
                    ", degree " + std::to_string(max_degree);
          const Index index = built(cloud, {.max_degree = max_degree, .max_traversals = 2000}, seeding);
          CHECK_EQ(fanng::strong_components(index.graph()).count, int64_t{1});
          torn += index.stats().components > 1;
          // Searches that measure everything they reach report all rows.
          const Found found = searched(index, {cloud.x.begin(), cloud.x.begin() + cloud.depth}, cloud.count, 1 << 20);
          CHECK_EQ(std::count(found.index.begin(), found.index.end(), -1), 0);
        }
      }
    }
  }
  CHECK(torn > 40);
}

TEST(widths_measured_on_hard_points_find_neighbors) {
  for (const Metric metric : kMetrics) {
    for (const auto& [name, cloud] : hard_clouds(metric)) {
      const Index index = built(cloud, {.max_traversals = 20'000}, Seeding::kNearest);
      const int64_t vertices = index.points().vertices();
      fanng::BuildStats stats;
      const PointSet& points = index.points();
      const fanng::NearLists exact = exact_lists(points, 60, SerialPool(), stats);  // those of the build
      const std::vector<fanng::Sample> samples = drawn_samples(points, &exact, 0, SerialPool(), stats);
      const auto measured = [&](int64_t first_width, const hardmine::cpu::ThreadPool& pool) {
        return fanng::calibrated_widths(index.graph(), points, samples, first_width, pool, stats);
      };
      const fanng::Widths widths = measured(fanng::kFirstWidth, SerialPool());
      context = name_of(metric) + ", " + name;
      CHECK(widths == index.stats().widths);
      for (const auto& pool : parallel_pools()) CHECK(widths == measured(fanng::kFirstWidth, *pool));
      for (const int64_t first_width : {1, 7, 64, 1000}) CHECK(widths == measured(first_width, SerialPool()));
      CHECK(std::is_sorted(widths.begin(), widths.end()));
      // All vertices as queries, the own one left out, with the default width for 10.
      const fanng::Distances distances(index.points());
      fanng::SearchSpace space(vertices);
      int64_t right = 0, wanted = 0;
      for (Vertex v = 0; v < vertices; ++v) {
        std::vector<float> sq_dist;
        for (Vertex u = 0; u < vertices; ++u)
          if (u != v) sq_dist.push_back(distances.between(v, u));
        std::sort(sq_dist.begin(), sq_dist.end());
        const auto k = std::min<int64_t>(10, vertices - 1);
        int64_t found = 0;
        for (const PackedNeighbor r :
             space.nearest(index.graph(), points, points.vector(v), index.graph().starts,
                           fanng::default_width(widths, 10), fanng::displaced_if_alone(points, v, sq_dist[k - 1])))
          found += vertex_of(r) != v && sq_dist_of(r) <= sq_dist[k - 1];
        right += std::min(found, k);
        wanted += k;
      }
      CHECK(static_cast<double>(right) >= 0.95 * static_cast<double>(wanted));
    }
  }
}

TEST(default_width_between_measured_ones_is_interpolated) {
  const fanng::Widths widths = {100, 190, 1190};
  CHECK_EQ(fanng::default_width(widths, 1), int64_t{100});
  CHECK_EQ(fanng::default_width(widths, 4), int64_t{130});
  CHECK_EQ(fanng::default_width(widths, 10), int64_t{190});
  CHECK_EQ(fanng::default_width(widths, 30), int64_t{690});
  CHECK_EQ(fanng::default_width(widths, 50), int64_t{1190});
  CHECK_EQ(fanng::default_width(widths, 100), int64_t{2380});
  CHECK_EQ(fanng::default_width(widths, int64_t{1} << 31), int64_t{1} << 31);
  CHECK_EQ(fanng::default_width({1, 1, 1}, 1), int64_t{16});
  CHECK_EQ(fanng::default_width({1, 1, 1}, 30), int64_t{30});
}

TEST(starts_are_spread_and_distinct) {
  Random random(4);
  for (const int64_t count : {1, 2, 3, 10, 100, 1000}) {
    const Index index = built(real_cloud(Metric::kEuclidean, count, 3, random), {.max_traversals = 2000});
    std::vector<Vertex> starts = index.graph().starts;
    CHECK_EQ(static_cast<double>(starts.size()), std::ceil(std::sqrt(static_cast<double>(count))));
    std::sort(starts.begin(), starts.end());
    CHECK(std::adjacent_find(starts.begin(), starts.end()) == starts.end());
    CHECK(starts.back() < static_cast<Vertex>(count));
  }
  CHECK(fanng::spread_starts(Graph()).empty());
  // Half of the effort at most goes to starts.
  Graph graph;
  graph.starts.resize(100);
  std::iota(graph.starts.begin(), graph.starts.end(), Vertex{0});
  CHECK((fanng::scanned_starts(graph, 10) == std::vector<Vertex>{0, 20, 40, 60, 80}));
  CHECK((fanng::scanned_starts(graph, 1) == std::vector<Vertex>{0}));
  CHECK_EQ(fanng::scanned_starts(graph, 200).size(), size_t{100});
}
