// Lists of near vertices: exact ones equal the definition; those of leaves hold nearly all of it, for any threads.

#include "fanng/leaves.h"
#include "fanng/near_lists.h"
#include "fanng/search_width.h"
#include "support/graphs.h"

namespace fanng = hardmine::fanng;  // not all of hardmine, whose Index is a number
using namespace hardmine::test;
using fanng::NearLists;

namespace {

double recall_of(const NearLists& lists, const NearLists& exact) {
  int64_t found = 0;
  for (size_t i = 0; i < exact.neighbor.size(); i += exact.length) {
    const PackedNeighbor *list = lists.neighbor.data() + i, *want = exact.neighbor.data() + i;
    found += std::count_if(list, list + lists.length,
                           [&](PackedNeighbor r) { return std::binary_search(want, want + exact.length, r); });
  }
  return static_cast<double>(found) / static_cast<double>(exact.neighbor.size());
}

// Ascending distinct other vertices, with their own distances.
void check_lists(const NearLists& lists, const PointSet& points) {
  const fanng::Distances distances(points);
  bool right = true;
  for (Vertex v = 0; v < points.vertices(); ++v) {
    for (int64_t n = 0; n < lists.length; ++n) {
      const PackedNeighbor other = lists.begin(v)[n];
      right &= vertex_of(other) < points.vertices() && vertex_of(other) != v &&
               sq_dist_of(other) == distances.between(v, vertex_of(other)) && (n == 0 || lists.begin(v)[n - 1] < other);
    }
  }
  CHECK(right);
}

}  // namespace

TEST(exact_lists_equal_definition) {
  for (const Metric metric : kMetrics) {
    for (const int64_t count : {0, 1, 2, 30, 150}) {
      for (const int64_t length : {1, 7, 200}) {
        Random random(3);
        const PointSet points = exact_cloud(metric, count, 3, random).points();
        fanng::BuildStats stats;
        const NearLists lists = exact_lists(points, length, SerialPool(), stats);
        context = name_of(metric) + ", " + std::to_string(count) + ", length " + std::to_string(length);
        CHECK_EQ(lists.length, std::max<int64_t>(std::min(length, points.vertices() - 1), 0));
        for (Vertex v = 0; v < points.vertices(); ++v) {
          Edges want;
          for (Vertex u = 0; u < points.vertices(); ++u)
            if (u != v) want.push_back(edge_between(points, v, u));
          std::sort(want.begin(), want.end());
          CHECK(std::equal(lists.begin(v), lists.begin(v) + lists.length, want.begin()));
        }
      }
    }
  }
}

TEST(samples_from_exact_lists_equal_measured_ones) {
  for (const Metric metric : kMetrics) {
    for (const int64_t count : {2, 30, 700}) {
      Random random(3);
      const PointSet points = exact_cloud(metric, count, 4, random).points();
      context = name_of(metric) + ", " + std::to_string(count);
      fanng::BuildStats measuring, stats;
      const std::vector<fanng::Sample> measured = drawn_samples(points, nullptr, 1, SerialPool(), measuring);
      for (const int64_t length : {20, 50, 60}) {
        const NearLists exact = exact_lists(points, length, SerialPool(), stats);
        const int64_t before = stats.distance_computations;
        const std::vector<fanng::Sample> listed = drawn_samples(points, &exact, 1, SerialPool(), stats);
        // Lists that are too short are of no use.
        CHECK_EQ(stats.distance_computations == before, exact.length >= std::min<int64_t>(50, points.vertices() - 1));
        CHECK_EQ(listed.size(), measured.size());
        for (size_t i = 0; i < listed.size(); ++i) {
          CHECK_EQ(listed[i].vertex, measured[i].vertex);
          CHECK(listed[i].farthest == measured[i].farthest);
        }
      }
    }
  }
}

TEST(leaf_lists_of_few_points_are_exact) {
  for (const Metric metric : kMetrics) {
    for (const int64_t count : {0, 1, 2, 30, 500}) {
      Random random(3);
      const PointSet points = exact_cloud(metric, count, 4, random).points();
      fanng::BuildStats stats;
      const auto never = [](const NearLists&) { return 0.0; };
      const NearLists lists = leaf_lists(points, 20, 1, never, SerialPool(), stats);
      context = name_of(metric) + ", " + std::to_string(count);
      CHECK(lists.neighbor == exact_lists(points, 20, SerialPool(), stats).neighbor);
    }
  }
}

TEST(near_centers_are_distinct_and_repeat) {
  for (const Metric metric : kMetrics) {
    Random random(3);
    const PointSet points = real_cloud(metric, 2000, 8, random).points();
    fanng::BuildStats stats;
    const fanng::NearCenters centers = near_centers(points, 1, {.per_center = 50}, SerialPool(), stats);
    for (const auto& pool : parallel_pools())
      CHECK(near_centers(points, 1, {.per_center = 50}, *pool, stats) == centers);
    CHECK(near_centers(points, 2, {.per_center = 50}, SerialPool(), stats) != centers);
    bool right = true;
    for (auto near : centers) {
      std::sort(near.begin(), near.end());
      right &= near.back() < 40 && std::adjacent_find(near.begin(), near.end()) == near.end();
    }
    CHECK(right);
  }
}

TEST(leaves_around_centers_hold_each_vertex_once_per_center) {
  Random random(3);
  const PointSet points = real_cloud(Metric::kEuclidean, 3000, 6, random).points();
  fanng::BuildStats stats;
  for (const int64_t max_leaf : {100, 100'000}) {
    const fanng::LeafSizes sizes{.per_center = 100, .max_leaf = max_leaf};
    const fanng::NearCenters centers = near_centers(points, 1, sizes, SerialPool(), stats);
    const fanng::Leaves leaves = leaves_around(points, centers, 1, sizes);
    CHECK_EQ(leaves.count() > 30, max_leaf == 100);
    std::vector<std::vector<int64_t>> leaves_of(points.vertices());
    for (int64_t leaf = 0; leaf < leaves.count(); ++leaf) {
      const int64_t first = leaves.first[leaf], last = leaves.first[leaf + 1];
      CHECK(last > first);
      CHECK(last - first <= max_leaf);
      CHECK(std::is_sorted(leaves.member.begin() + first, leaves.member.begin() + last));
      for (int64_t i = first; i < last; ++i) leaves_of[leaves.member[i]].push_back(leaf);
    }
    bool right = true;
    for (Vertex v = 0; v < points.vertices(); ++v) {
      std::vector<int64_t> of(leaves.of[v].begin(), leaves.of[v].end());
      std::sort(of.begin(), of.end());
      right &= of == leaves_of[v];
      const Vertex other = (v + 1) % points.vertices();
      const auto shared = std::find_first_of(leaves.of[v].begin(), leaves.of[v].end(), leaves.of[other].begin(),
                                             leaves.of[other].end());
      right &= leaves.share(v, other) == (shared != leaves.of[v].end());
    }
    CHECK(right);
  }
}

TEST(leaf_lists_of_many_leaves_hold_nearly_all) {
  for (const Metric metric : kMetrics) {
    for (const bool ties : {false, true}) {
      Random random(3);
      const Cloud cloud = ties ? exact_cloud(metric, 6000, 16, random) : real_cloud(metric, 6000, 8, random);
      const PointSet points = cloud.points();
      context = name_of(metric) + (ties ? ", ties" : "");
      const fanng::LeafSizes sizes{.per_center = 12, .max_leaf = 600};
      CHECK(points.vertices() > 3000);
      fanng::BuildStats stats;
      const NearLists exact = exact_lists(points, 25, SerialPool(), stats);
      const std::vector<fanng::Sample> samples = drawn_samples(points, nullptr, 1, SerialPool(), stats);
      const auto recall = [&](const NearLists& lists) { return list_recall(samples, lists); };
      const auto always = [](const NearLists&) { return 1.0; };
      const auto never = [](const NearLists&) { return 0.0; };
      CHECK_EQ(recall(exact), 1.0);
      const int64_t before = stats.distance_computations;
      const NearLists lists = leaf_lists(points, 25, 1, recall, SerialPool(), stats, sizes);
      const int64_t computed = stats.distance_computations - before;
      CHECK(computed > 0);
      check_lists(lists, points);
      CHECK(recall_of(lists, exact) > (ties ? 0.9 : 0.98));  // equally far vertices may replace each other
      CHECK(recall(lists) > 0.98);
      for (const auto& pool : parallel_pools()) {
        fanng::BuildStats other;
        CHECK(leaf_lists(points, 25, 1, recall, *pool, other, sizes).neighbor == lists.neighbor);
        CHECK_EQ(other.distance_computations, computed);
      }
      // Comparisons with neighbors of neighbors find more than the leaves, where those leave some out.
      fanng::BuildStats other;
      const NearLists leaves_only = leaf_lists(points, 25, 1, always, SerialPool(), other, sizes);
      const NearLists refined = leaf_lists(points, 25, 1, never, SerialPool(), other, sizes);
      CHECK(ties || recall_of(leaves_only, exact) < 1);
      CHECK(ties || recall_of(refined, exact) > recall_of(leaves_only, exact));
    }
  }
}

TEST(leaf_lists_of_small_leaves_are_completed) {
  for (const Metric metric : kMetrics) {
    Random random(3);
    const PointSet points = exact_cloud(metric, 1500, 16, random).points();
    context = name_of(metric);
    fanng::BuildStats stats;
    const auto always = [](const NearLists&) { return 1.0; };
    // Leaves of at most 4 vertices: no list of 200 is full.
    const fanng::LeafSizes sizes{.per_center = 3, .max_leaf = 4};
    CHECK(points.vertices() >= 768);
    const NearLists lists = leaf_lists(points, 200, 1, always, SerialPool(), stats, sizes);
    CHECK(lists.neighbor == exact_lists(points, 200, SerialPool(), stats).neighbor);
    for (const auto& pool : parallel_pools())
      CHECK(leaf_lists(points, 200, 1, always, *pool, stats, sizes).neighbor == lists.neighbor);
  }
}

// Rows along a line through the origin, copies in all but a few bits, and one far row: splits must not need distinct
// projections.
TEST(leaf_lists_of_degenerate_points_are_complete) {
  Random random(3);
  std::vector<float> x;
  for (int64_t i = 0; i < 5000; ++i) {
    const float tiny = static_cast<float>(i) * 1e-30F;
    x.insert(x.end(), {i == 7 ? 1e15F : 1.0F, tiny});
  }
  const Cloud cloud{5000, 2, Metric::kEuclidean, x};
  const PointSet points = cloud.points();
  CHECK_EQ(points.vertices(), int64_t{5000});
  fanng::BuildStats stats;
  const auto never = [](const NearLists&) { return 0.0; };
  const NearLists lists = leaf_lists(points, 10, 0, never, SerialPool(), stats, {.per_center = 15, .max_leaf = 300});
  check_lists(lists, points);
}
