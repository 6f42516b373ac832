// Results of searches: exact with enough effort, ties by the lowest index, duplicates, errors, threads.

#include <limits>
#include <set>
#include <thread>

#include "support/graphs.h"

namespace fanng = hardmine::fanng;  // not all of hardmine, whose Index is a number
using namespace hardmine::test;
using fanng::Index;

namespace {

constexpr int64_t kEnough = 1 << 20;

// Rows sorted by (squared distance, index), computed in double. Row `own` is left out.
std::vector<std::pair<double, int64_t>> exact_order(const PointSet& points, const float* query, int64_t own) {
  std::vector<std::pair<double, int64_t>> order;
  for (int64_t i = 0; i < points.rows(); ++i) {
    if (i == own) continue;
    double sum = 0;
    const float* const x = points.vector(points.vertex_of(i));
    for (int64_t k = 0; k < points.stride(); ++k) sum += (double(query[k]) - double(x[k])) * (double(query[k]) - x[k]);
    order.emplace_back(sum, i);
  }
  std::sort(order.begin(), order.end());
  return order;
}

// Compares distances with the exact order, each row with its own distance, and checks the sentinels at the end. Does
// not check which of several equally distant rows come first.
void check_exact(const Index& index, const Found& found, int64_t query, const float* x, int64_t own) {
  const PointSet& points = index.points();
  const auto order = exact_order(points, x, own);
  const std::vector<int64_t> rows = found.row(query);
  std::set<int64_t> seen;
  for (int64_t n = 0; n < found.k; ++n) {
    const float distance = found.distance[query * found.k + n];
    if (n >= static_cast<int64_t>(order.size())) {
      CHECK_EQ(rows[n], int64_t{-1});
      CHECK(std::isnan(distance));
      continue;
    }
    CHECK_EQ(distance, points.reported(static_cast<float>(order[n].first)));
    const auto itself =
        std::find_if(order.begin(), order.end(), [&](const auto& row) { return row.second == rows[n]; });
    CHECK(itself != order.end() && itself->first == order[n].first);
    CHECK(seen.insert(rows[n]).second);
  }
}

}  // namespace

TEST(search_wide_enough_is_exact) {
  for (const Metric metric : kMetrics) {
    for (const int64_t count : {1, 2, 3, 40, 150}) {
      Random random(static_cast<uint64_t>(count));
      const Cloud cloud = exact_cloud(metric, count, 3, random);
      for (const fanng::Seeding seeding : {fanng::Seeding::kNearest, fanng::Seeding::kLeaves}) {
        const Index index = built(cloud, {.success_rate = 0}, seeding);
        for (const int64_t k : {1, 5, 200}) {
          context = name_of(metric) + ", " + std::to_string(count) + ", k " + std::to_string(k);
          const Found lists = listed(index, k, fanng::Limit{.width = count});
          for (int64_t i = 0; i < count; ++i)
            check_exact(index, lists, i, index.points().vector(index.points().vertex_of(i)), i);
          if (!index.lists_hold(k)) continue;
          Found kept(count, k);
          index.listed(0, count, SerialPool(), kept.view());
          CHECK(kept.same(lists));
        }
      }
    }
  }
}

TEST(search_with_unlimited_effort_is_exact) {
  for (const Metric metric : kMetrics) {
    for (const int64_t count : {1, 2, 3, 40, 150}) {
      for (const int64_t depth : {1, 3, 20}) {
        for (const int64_t k : {1, 5, 200}) {
          Random random(static_cast<uint64_t>(count + depth + k));
          const Cloud cloud = exact_cloud(metric, count, depth, random);
          const Index index = naive_index(cloud);
          context = name_of(metric) + ", " + std::to_string(count) + " x " + std::to_string(depth) + ", k " +
                    std::to_string(k);
          const Found lists = listed(index, k, kEnough);
          for (int64_t i = 0; i < count; ++i)
            check_exact(index, lists, i, index.points().vector(index.points().vertex_of(i)), i);
          const Cloud queries = exact_cloud(metric, 9, depth, random);
          const Found found = searched(index, queries.x, k, kEnough);
          for (int64_t i = 0; i < 9; ++i) {
            const std::vector<float> form = stored_form(index.points(), queries.row(i));
            const bool zero = std::all_of(form.begin(), form.end(), [](float value) { return value == 0; });
            // A query without direction has a test of its own under the cosine metric.
            if (!zero || metric == Metric::kEuclidean) check_exact(index, found, i, form.data(), -1);
          }
        }
      }
    }
  }
}

TEST(search_ties_are_ordered_by_index) {
  for (const Metric metric : kMetrics) {
    for (const int64_t depth : {2, 4, 12}) {  // many, some, and hardly any duplicates
      Random random(8);
      const Cloud cloud = exact_cloud(metric, 60, depth, random);
      const Index index = naive_index(cloud);
      int64_t ties = 0;
      for (const int64_t k : {1, 2, 3, 7, 20, 59, 70}) {
        context = name_of(metric) + ", depth " + std::to_string(depth) + ", k " + std::to_string(k);
        const Found lists = listed(index, k, kEnough), found = searched(index, cloud.x, k, kEnough);
        for (int64_t i = 0; i < 60; ++i) {
          const float* const x = index.points().vector(index.points().vertex_of(i));
          // A query without a direction is not what it is stored as.
          const bool stored = metric == Metric::kEuclidean ||
                              std::any_of(cloud.row(i), cloud.row(i) + depth, [](float value) { return value != 0; });
          for (const int64_t own : {i, int64_t{-1}}) {
            const auto order = exact_order(index.points(), x, own);
            const std::vector<int64_t> row = (own < 0 ? found : lists).row(i);
            for (int64_t n = 0; n < std::min<int64_t>(k, static_cast<int64_t>(order.size())); ++n) {
              CHECK(row[n] == order[n].second || (own < 0 && !stored));
              ties += n > 0 && order[n].first == order[n - 1].first;
            }
          }
        }
      }
      CHECK(ties > 500);
    }
  }
}

TEST(search_reports_duplicates_but_not_own_row) {
  std::vector<float> x;
  for (int64_t i = 0; i < 40; ++i) x.insert(x.end(), {static_cast<float>(i % 4), 1});
  for (const Metric metric : kMetrics) {
    const Index index = built({40, 2, metric, x});
    context = name_of(metric);
    CHECK_EQ(index.points().vertices(), int64_t{4});
    const Found found = listed(index, 12, kEnough);
    for (int64_t i = 0; i < 40; ++i) {
      std::vector<int64_t> want;
      for (int64_t j = i % 4; j < 40; j += 4)
        if (j != i) want.push_back(j);
      const std::vector<int64_t> row = found.row(i);
      CHECK(std::equal(want.begin(), want.end(), row.begin()));
      for (int64_t n = 0; n < 12; ++n) CHECK_EQ(found.distance[i * 12 + n] == 0, n < 9);
      CHECK(row[9] % 4 != i % 4);
    }
    // k ends among the duplicates.
    CHECK((listed(index, 3, kEnough).row(4) == std::vector<int64_t>{0, 8, 12}));
    CHECK((searched(index, {2, 1}, 3, kEnough).row(0) == std::vector<int64_t>{2, 6, 10}));
  }
}

TEST(search_zero_query_is_at_cosine_distance_1) {
  Random random(2);
  for (const bool zero_row : {false, true}) {
    Cloud cloud = real_cloud(Metric::kCosine, 20, 4, random);
    if (zero_row) std::fill_n(cloud.x.begin() + 4 * 7, 4, 0.0F);
    const Found found = searched(naive_index(cloud), {0, 0, -0.0F, 0}, 20, kEnough);
    std::vector<int64_t> rows = found.row(0);
    for (int64_t n = 0; n < 20; ++n) CHECK_NEAR(found.distance[n], 1, 1e-6);
    std::sort(rows.begin(), rows.end());
    for (int64_t n = 0; n < 20; ++n) CHECK_EQ(rows[n], n);
  }
}

TEST(search_empty_index_returns_sentinels) {
  for (const Metric metric : kMetrics) {
    const Index empty = built({0, 3, metric, {}});
    CHECK_EQ(empty.points().vertices(), int64_t{0});
    CHECK((searched(empty, {1, 2, 3}, 2, 10).row(0) == std::vector<int64_t>{-1, -1}));
    CHECK(std::isnan(searched(empty, {1, 2, 3}, 2, 10).distance[1]));
    CHECK(listed(empty, 2, 10).index.empty());
    const Index one = built({1, 3, metric, {1, 2, 3}});
    CHECK((searched(one, {1, 2, 4}, 2, 10).row(0) == std::vector<int64_t>{0, -1}));
    CHECK((listed(one, 2, 10).row(0) == std::vector<int64_t>{-1, -1}));
    CHECK(searched(one, {}, 2, 10).index.empty());
  }
}

TEST(search_invalid_query_or_start_is_an_error) {
  for (const Metric metric : kMetrics) {
    Random random(2);
    const Index index = built(real_cloud(metric, 9, 2, random));
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
    for (const float bad : {kNan, kInf, -kInf}) {
      const std::vector<float> queries = {1, 2, 3, 4, bad, 5};
      CHECK_THROWS(searched(index, queries, 2, 10), std::invalid_argument, "queries must be finite");
      CHECK_THROWS(searched(index, queries, 2, 10), std::invalid_argument, "row 2");
    }
    for (const int64_t bad : {int64_t{-1}, int64_t{9}, std::numeric_limits<int64_t>::max()}) {
      const std::vector<int64_t> start = {3, bad};
      const auto search = [&] { searched(index, {1, 2, 3, 4}, 2, 10, &start); };
      CHECK_THROWS(search(), std::invalid_argument,
                   "start must be rows of the index, 0 to 8, got " + std::to_string(bad));
    }
    const Index empty = built({0, 2, metric, {}});
    const std::vector<int64_t> start = {0};
    const auto search = [&] { searched(empty, {1, 2}, 2, 10, &start); };
    CHECK_THROWS(search(), std::invalid_argument, "start must be rows of the index");
  }
}

TEST(search_any_threads_give_same_result) {
  for (const Metric metric : kMetrics) {
    Random random(2);
    const Cloud cloud = real_cloud(metric, 700, 5, random);
    const Index index = built(cloud);
    constexpr fanng::Limit kWide{.width = 20};
    const Found lists = listed(index, 9, 60), found = searched(index, cloud.x, 9, 60), wide = listed(index, 9, kWide);
    for (const auto& pool : parallel_pools()) {
      CHECK(listed(index, 9, 60, *pool).same(lists));
      CHECK(searched(index, cloud.x, 9, 60, nullptr, *pool).same(found));
      CHECK(listed(index, 9, kWide, *pool).same(wide));
    }
  }
}

TEST(search_concurrent_calls_give_same_result) {
  Random random(2);
  const Cloud cloud = real_cloud(Metric::kEuclidean, 400, 5, random);
  const Index index = built(cloud);
  const Found lists = listed(index, 9, 60);
  std::vector<int> same(6, 0);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 6; ++t) {
      threads.emplace_back([&, t] {
        for (int n = 0; n < 5; ++n) same[t] += listed(index, 9, 60, *parallel_pools()[t % 4]).same(lists);
      });
    }
  }
  for (const int count : same) CHECK_EQ(count, 5);
}

TEST(neighbors_row_range_equals_part_of_all) {
  Random random(2);
  const Index index = built(real_cloud(Metric::kCosine, 100, 5, random));
  const Found all = listed(index, 4, 60);
  Found part(30, 4);
  index.neighbors(50, 80, {.max_computations = 60}, SerialPool(), part.view());
  CHECK(std::equal(part.index.begin(), part.index.end(), all.index.begin() + 50 * 4));
  CHECK(std::equal(part.distance.begin(), part.distance.end(), all.distance.begin() + 50 * 4));
}
