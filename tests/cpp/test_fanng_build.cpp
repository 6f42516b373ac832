// Builds of a graph: independent of the threads, as good as requested, and stopped on request.

#include <chrono>
#include <stdexcept>

#include "fanng/connectivity.h"
#include "fanng/threads.h"
#include "support/graphs.h"

namespace fanng = hardmine::fanng;  // not all of hardmine, whose Index is a number
using namespace hardmine::test;
using fanng::BuildOptions;
using fanng::Index;
using fanng::Seeding;

namespace {

constexpr Seeding kSeedings[] = {Seeding::kNothing, Seeding::kAllEdges, Seeding::kNearest, Seeding::kLeaves};
constexpr int64_t kAll = 65535;  // edges per vertex: none is removed

struct Stop : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void never() {}

bool same(const Index& a, const Index& b) {
  return same_graph(a.graph(), b.graph()) && a.lists() == b.lists() && a.stats().widths == b.stats().widths &&
         a.stats().traversals == b.stats().traversals && a.stats().success_rate == b.stats().success_rate &&
         a.stats().distance_computations == b.stats().distance_computations;
}

Cloud moved(const Cloud& cloud, float distance, Random& random) {
  Cloud out = cloud;
  for (float& x : out.x) x += distance * static_cast<float>(2 * random.unit() - 1);
  return out;
}

// No edge to itself, no duplicates, ascending by (distance, vertex), a path from every vertex to every other. None
// occluded by a shorter edge, at most `limit`, if no edges had to connect components.
void check_edges(const Index& index, int64_t limit) {
  const PointSet& points = index.points();
  CHECK_EQ(index.graph().vertices(), points.vertices());
  CHECK_EQ(fanng::strong_components(index.graph()).count, std::min<int64_t>(points.vertices(), 1));
  CHECK_EQ(index.stats().connecting_edges > 0, index.stats().components > 1);
  for (Vertex p = 0; p < points.vertices(); ++p) {
    Edges edges;
    const fanng::Distances distances(points);
    for (const Vertex q : targets_of(index.graph(), p)) {
      CHECK(q < points.vertices() && q != p);
      edges.push_back(pack_neighbor(distances.between(p, q), q));
    }
    const bool connected = index.stats().connecting_edges > 0;
    CHECK(static_cast<int64_t>(edges.size()) <= (connected ? limit + fanng::kMaxLinks + 1 : limit));
    for (size_t e = 0; e < edges.size(); ++e) {
      CHECK(e == 0 || edges[e - 1] < edges[e]);
      for (size_t s = 0; s < e; ++s) {
        const bool shorter = sq_dist_of(edges[s]) < sq_dist_of(edges[e]) && sq_dist_of(edges[s]) > 0;
        CHECK(connected || !shorter ||
              distances.between(vertex_of(edges[s]), vertex_of(edges[e])) >= sq_dist_of(edges[e]));
      }
    }
  }
}

// Orders the targets of edges of a vertex as the graph does.
auto by_length(const Index& index, Vertex from) {
  return [&index, from](Vertex a, Vertex b) {
    const fanng::Distances distances(index.points());
    return pack_neighbor(distances.between(from, a), a) < pack_neighbor(distances.between(from, b), b);
  };
}

// The fraction of walks between random vertices that arrive.
double arriving(const Index& index, int64_t walks) {
  Random random(77);
  int64_t arrived = 0;
  const auto neighbors_of = [&](Vertex v) { return targets_of(index.graph(), v); };
  for (int64_t n = 0; n < walks; ++n) {
    const auto start = static_cast<Vertex>(random.below(index.points().vertices()));
    const auto target = static_cast<Vertex>(random.below(index.points().vertices()));
    arrived += walk_downhill(index.points(), start, target, neighbors_of) == target;
  }
  return static_cast<double>(arrived) / static_cast<double>(walks);
}

}  // namespace

TEST(build_any_threads_give_same_graph) {
  for (const Metric metric : kMetrics) {
    for (const bool exact : {true, false}) {
      Random random(3);
      const Cloud cloud = exact ? exact_cloud(metric, 400, 3, random) : real_cloud(metric, 400, 8, random);
      const Index before = built(moved(cloud, 0.2F, random));
      for (const Seeding seeding : kSeedings) {
        for (const Index* warm : {static_cast<const Index*>(nullptr), &before}) {
          if (warm && seeding != Seeding::kNothing) continue;
          const BuildOptions options = {
              .max_degree = 9, .seed = 5, .max_traversals = 6000, .refinements = exact ? 2 : 0};
          const Index serial = built(cloud, options, seeding, warm);
          check_edges(serial, 9);
          for (const auto& pool : parallel_pools()) {
            context = name_of(metric) + ", " + std::to_string(pool->count()) + " threads";
            CHECK(same(built(cloud, options, seeding, warm, *pool), serial));
          }
          for (const int64_t threads : {1, 4, 5, 6, 7})
            CHECK(same(built(cloud, options, seeding, warm, fanng::Threads(threads, never)), serial));
        }
      }
    }
  }
}

TEST(build_any_success_rate_is_reached) {
  for (const Metric metric : kMetrics) {
    Random random(3);
    const Cloud cloud = real_cloud(metric, 500, 6, random);
    for (const double wanted : {0.5, 0.9, 0.98}) {
      const Index index = built(cloud, {.success_rate = wanted, .max_degree = kAll});
      context = name_of(metric) + ", success rate " + std::to_string(wanted);
      CHECK(index.stats().build_success_rate >= wanted);
      CHECK(index.stats().traversals < 50 * 500);
      // The build measures its rate before it adds the last edges. Apart from chance, the final rate is higher.
      CHECK(arriving(index, 1000) > wanted - 0.03);
      // The reported rate is measured on the final graph, with other random walks.
      CHECK_NEAR(index.stats().success_rate, arriving(index, 1000), 0.06);
      CHECK(wanted > 0.6 || arriving(index, 1000) < 0.9);
      check_edges(index, kAll);
    }
  }
}

TEST(build_max_traversals_is_not_exceeded) {
  Random random(3);
  const Cloud cloud = real_cloud(Metric::kCosine, 800, 20, random);
  for (const int64_t limit : {1, 63, 64, 65, 100, 999, 1001, 2500}) {
    const Index index = built(cloud, {.success_rate = 1, .max_traversals = limit});
    context = "at most " + std::to_string(limit);
    CHECK_EQ(index.stats().traversals, limit);
    // One edge and its reverse per traversal.
    CHECK(static_cast<int64_t>(index.graph().target.size()) - index.stats().connecting_edges <= 2 * limit);
    CHECK(!index.graph().target.empty());
  }
  // The default is 50 per vertex.
  const Cloud small = real_cloud(Metric::kCosine, 120, 30, random);
  CHECK(built(small, {.success_rate = 1}).stats().traversals <= 50 * 120);
}

TEST(build_few_points_reach_each_other) {
  for (const Metric metric : kMetrics) {
    for (const Seeding seeding : kSeedings) {
      for (const int64_t count : {0, 1, 2, 3, 5}) {
        Random random(static_cast<uint64_t>(count));
        const Cloud cloud = real_cloud(metric, count, 2, random);
        const Index index = built(cloud, {}, seeding);
        context = name_of(metric) + ", " + std::to_string(count) + " points, seeding " +
                  std::to_string(static_cast<int>(seeding));
        CHECK_EQ(index.stats().success_rate, 1.0);
        check_edges(index, 30);
        // The build traversed every pair many times, so every walk arrives.
        const Index again = built(cloud, {}, Seeding::kNothing, &index);
        for (const Index* each : {&index, &again}) {
          const auto neighbors_of = [&](Vertex v) { return targets_of(each->graph(), v); };
          for (Vertex a = 0; a < index.points().vertices(); ++a)
            for (Vertex b = 0; b < index.points().vertices(); ++b)
              CHECK_EQ(walk_downhill(index.points(), a, b, neighbors_of), b);
        }
      }
    }
  }
}

TEST(build_only_duplicates_has_one_vertex) {
  for (const Metric metric : kMetrics) {
    const Index index = built({50, 2, metric, std::vector<float>(100, 0.5F)});
    CHECK_EQ(index.graph().vertices(), int64_t{1});
    CHECK(index.graph().target.empty());
    CHECK_EQ(index.stats().success_rate, 1.0);
  }
}

TEST(build_success_rate_0_adds_only_connecting_edges) {
  Random random(3);
  const Cloud cloud = real_cloud(Metric::kEuclidean, 300, 6, random);
  const Index none = built(cloud, {.success_rate = 0});
  CHECK_EQ(none.stats().components, int64_t{300});
  CHECK_EQ(none.stats().connecting_edges, static_cast<int64_t>(none.graph().target.size()));
  CHECK_EQ(none.stats().connecting_edges, int64_t{2 * 299});  // to and from every component but the core
  CHECK_EQ(none.stats().traversals, int64_t{0});
  const Index before = built(cloud, {.max_degree = kAll});
  CHECK_EQ(before.stats().components, int64_t{1});
  CHECK(same_graph(built(cloud, {.success_rate = 0, .max_degree = kAll}, Seeding::kNothing, &before).graph(),
                   before.graph()));
}

TEST(build_refinements_improve_recall) {
  for (const Metric metric : kMetrics) {
    Random random(3);
    const Cloud cloud = real_cloud(metric, 1000, 12, random);
    const Found exact = listed(naive_index(cloud), 10, 1 << 20);
    const auto found_of = [&](int64_t refinements) {
      const Index index = built(cloud, {.max_traversals = 5000, .refinements = refinements});
      check_edges(index, 30);
      const Found found = listed(index, 10, 150);
      int64_t right = 0;
      for (int64_t i = 0; i < 1000; ++i)
        for (const int64_t row : found.row(i)) {
          const std::vector<int64_t> want = exact.row(i);
          right += std::find(want.begin(), want.end(), row) != want.end();
        }
      return right;
    };
    context = name_of(metric);
    const int64_t none = found_of(0), one = found_of(1), two = found_of(2);
    CHECK(one > none + 500);
    CHECK(two > one - 200);
  }
}

TEST(build_seed_determines_graph) {
  Random random(3);
  const Cloud cloud = real_cloud(Metric::kEuclidean, 300, 10, random);
  const auto with_seed = [&](uint64_t seed) { return built(cloud, {.seed = seed}); };
  const Index first = with_seed(1);
  CHECK(same(first, with_seed(1)));
  for (const uint64_t seed : {uint64_t{0}, uint64_t{2}, uint64_t{1} << 32 | 1, ~uint64_t{0}})
    CHECK(!same_graph(first.graph(), with_seed(seed).graph()));
}

TEST(build_max_degree_keeps_shortest_edges) {
  Random random(3);
  const Cloud cloud = real_cloud(Metric::kEuclidean, 200, 8, random);
  const Index whole = naive_index(cloud);
  for (const int64_t limit : {1, 3, 6}) {
    const Index cut = built(cloud, {.success_rate = 0, .max_degree = limit}, Seeding::kAllEdges);
    check_edges(cut, limit);
    for (Vertex v = 0; v < 200; ++v) {
      std::vector<Vertex> want = targets_of(whole.graph(), v);
      want.resize(std::min<size_t>(want.size(), limit));
      const std::vector<Vertex> kept = targets_of(cut.graph(), v);
      CHECK(cut.stats().connecting_edges > 0
                ? std::includes(kept.begin(), kept.end(), want.begin(), want.end(), by_length(cut, v))
                : kept == want);
    }
  }
}

TEST(warm_start_after_small_move_needs_few_traversals) {
  for (const Metric metric : kMetrics) {
    Random random(3);
    const Cloud cloud = real_cloud(metric, 600, 8, random), next = moved(cloud, 0.01F, random);
    const Index before = built(cloud), fresh = built(next), warm = built(next, {}, Seeding::kNothing, &before);
    context = name_of(metric);
    CHECK(warm.stats().traversals * 3 < fresh.stats().traversals);
    CHECK(warm.stats().build_success_rate >= std::min(0.98, before.stats().reachable));
    check_edges(warm, 30);
  }
}

TEST(warm_start_other_row_count_is_an_error) {
  Random random(3);
  const Index before = built(real_cloud(Metric::kCosine, 10, 3, random));
  const Cloud other = real_cloud(Metric::kCosine, 11, 3, random);
  const auto build = [&] { built(other, {}, Seeding::kNothing, &before); };
  CHECK_THROWS(build(), std::invalid_argument, "init must be an index of 11 rows, got one of 10");
  // Depth and metric may differ.
  check_edges(built(real_cloud(Metric::kEuclidean, 10, 5, random), {}, Seeding::kNothing, &before), 30);
}

// Progress and stopping

TEST(progress_is_reported_on_calling_thread) {
  Random random(3);
  const Cloud cloud = real_cloud(Metric::kCosine, 500, 8, random);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<std::pair<double, int64_t>> reports;
  const Index index(cloud.x.data(), cloud.count, cloud.depth, cloud.metric, {}, Seeding::kNothing, nullptr,
                    fanng::Threads(3, never), [&](double rate, int64_t traversals) {
                      CHECK(std::this_thread::get_id() == caller);
                      reports.emplace_back(rate, traversals);
                    });
  CHECK(reports.size() > 2);
  for (size_t i = 0; i < reports.size(); ++i) {
    CHECK(reports[i].first >= 0 && reports[i].first <= 1);
    CHECK(i == 0 || reports[i].second > reports[i - 1].second);
  }
  CHECK_EQ(reports.back().first, index.stats().build_success_rate);
  CHECK_EQ(reports.back().second, index.stats().traversals);
}

TEST(progress_that_throws_stops_build) {
  Random random(3);
  const Cloud cloud = real_cloud(Metric::kCosine, 500, 8, random);
  for (const int64_t threads : {1, 3}) {
    int reports = 0;
    const auto report = [&](double, int64_t) {
      if (++reports == 2) throw Stop("enough");
    };
    const auto build = [&] {
      Index(cloud.x.data(), cloud.count, cloud.depth, cloud.metric, {.success_rate = 1}, Seeding::kNothing, nullptr,
            fanng::Threads(threads, never), report);
    };
    CHECK_THROWS(build(), Stop, "enough");
    CHECK_EQ(reports, 2);
  }
}

TEST(poll_that_throws_stops_work) {
  for (const int64_t threads : {1, 4}) {
    std::atomic<int64_t> pieces{0};
    const fanng::Threads pool(threads, [] { throw Stop("stopped"); });
    const auto work = [&] {
      fanng::parallel_chunks(pool, 100'000, 10, [&](int64_t, int64_t, int64_t) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        ++pieces;
      });
    };
    context = std::to_string(threads) + " threads";
    CHECK_THROWS(work(), Stop, "stopped");
    CHECK(pool.cancelled());
    CHECK(pieces < 9000);  // of 10,000: all of them would take seconds
  }
}

TEST(poll_between_short_calls_is_called) {
  for (const int64_t threads : {1, 3}) {
    int64_t polls = 0;
    const fanng::Threads pool(threads, [&] { ++polls; });
    const auto begin = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(550))
      fanng::parallel_chunks(
          pool, 6, 1, [](int64_t, int64_t, int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
    CHECK(polls >= 1 && polls <= 6);
  }
}

TEST(thread_that_throws_stops_work) {
  std::atomic<int64_t> pieces{0};
  const fanng::Threads pool(3, never);
  const auto work = [&] {
    fanng::parallel_chunks(pool, 100'000, 1, [&](int64_t, int64_t begin, int64_t) {
      if (begin == 50) throw std::bad_alloc();
      ++pieces;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    });
  };
  CHECK_THROWS(work(), std::bad_alloc, "bad_alloc");
  CHECK(pieces < 90'000);
}

// Every kind of build outlasts the first poll, and stops there.
TEST(poll_that_throws_stops_every_kind_of_build) {
  Random random(3);
  const Cloud cloud = real_cloud(Metric::kCosine, 4000, 64, random);
  const Index before = built(cloud, {.max_traversals = 2000});
  for (const int64_t threads : {1, 2}) {
    for (const Seeding seeding : kSeedings) {
      for (const Index* warm : {static_cast<const Index*>(nullptr), &before}) {
        if (warm && seeding != Seeding::kNothing) continue;
        int64_t polls = 0, traversals = 0;
        const fanng::Threads pool(threads, [&] {
          ++polls;
          throw Stop("stopped");
        });
        const auto build = [&] {
          Index(cloud.x.data(), cloud.count, cloud.depth, cloud.metric,
                {.success_rate = 1, .max_traversals = int64_t{1} << 60}, seeding, warm, pool,
                [&](double, int64_t count) { traversals = count; });
        };
        context = std::to_string(threads) + " threads, seeding " + std::to_string(static_cast<int>(seeding));
        CHECK_THROWS(build(), Stop, "stopped");
        CHECK_EQ(polls, int64_t{1});
        CHECK(traversals < 200'000);
      }
    }
  }
}
