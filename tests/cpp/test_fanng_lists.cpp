// Lists of near vertices: exact ones equal the definition; those of leaves hold nearly all of it, for any threads.

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

TEST(leaf_lists_of_one_leaf_are_exact) {
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

TEST(leaf_lists_of_many_leaves_hold_nearly_all) {
  for (const Metric metric : kMetrics) {
    for (const bool ties : {false, true}) {
      Random random(3);
      const Cloud cloud = ties ? exact_cloud(metric, 9000, 16, random) : real_cloud(metric, 9000, 8, random);
      const PointSet points = cloud.points();
      context = name_of(metric) + (ties ? ", ties" : "");
      CHECK(points.vertices() > 4096);
      fanng::BuildStats stats;
      const NearLists exact = exact_lists(points, 25, SerialPool(), stats);
      const std::vector<fanng::Sample> samples = fanng::drawn_samples(points, nullptr, 1, SerialPool(), stats);
      const auto recall = [&](const NearLists& lists) { return list_recall(samples, lists); };
      CHECK_EQ(recall(exact), 1.0);
      const int64_t before = stats.distance_computations;
      const NearLists lists = leaf_lists(points, 25, 1, recall, SerialPool(), stats);
      CHECK(stats.distance_computations > before);
      check_lists(lists, points);
      CHECK(recall_of(lists, exact) > (ties ? 0.9 : 0.98));  // equally far vertices may replace each other
      CHECK(recall(lists) > 0.98);
      fanng::BuildStats other;
      for (const auto& pool : parallel_pools())
        CHECK(leaf_lists(points, 25, 1, recall, *pool, other).neighbor == lists.neighbor);
      // Without enough recall there are more rounds.
      const auto never = [](const NearLists&) { return 0.0; };
      CHECK(recall_of(leaf_lists(points, 25, 1, never, SerialPool(), other), exact) >= recall_of(lists, exact));
    }
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
  const NearLists lists = leaf_lists(points, 10, 0, never, SerialPool(), stats);
  check_lists(lists, points);
}
