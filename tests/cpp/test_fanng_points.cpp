// The vertices of a graph: which rows are duplicates, how rows are stored, and which rows are errors.

#include <cstring>
#include <limits>

#include "support/graphs.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

PointSet points_of(const std::vector<float>& x, int64_t depth, Metric metric) {
  return {x.data(), static_cast<int64_t>(x.size()) / depth, depth, metric};
}

// Compares the vertices with a search for each row among all rows before it. `x` is exact in its stored form.
void check_copies(const Cloud& cloud) {
  const PointSet points = cloud.points();
  CHECK_EQ(points.rows(), cloud.count);
  CHECK_EQ(points.depth(), cloud.depth);
  std::vector<std::vector<float>> distinct;  // stored form of each vertex, without padding
  std::vector<std::vector<int64_t>> copies;
  std::vector<float> form(points.stride());
  for (int64_t i = 0; i < cloud.count; ++i) {
    CHECK(points.prepare(cloud.row(i), form.data()));
    const auto known = std::find(distinct.begin(), distinct.end(), form);
    const auto v = static_cast<size_t>(known - distinct.begin());
    if (known == distinct.end()) {
      distinct.push_back(form);
      copies.emplace_back();
    }
    copies[v].push_back(i);
    CHECK_EQ(points.vertex_of(i), static_cast<Vertex>(v));
  }
  CHECK_EQ(points.vertices(), static_cast<int64_t>(distinct.size()));
  for (Vertex v = 0; v < distinct.size(); ++v) {
    CHECK(std::equal(points.copies_begin(v), points.copies_end(v), copies[v].begin(), copies[v].end()));
    std::vector<float> want = distinct[v];
    const bool zero = std::all_of(want.begin(), want.end(), [](float value) { return value == 0; });
    if (zero && cloud.metric == Metric::kCosine) want[cloud.depth] = 1;  // an extra dimension
    CHECK(std::equal(want.begin(), want.end(), points.vector(v)));
  }
}

}  // namespace

TEST(point_set_duplicates_share_a_vertex) {
  for (const Metric metric : kMetrics) {
    for (const int64_t count : {0, 1, 2, 3, 17, 200}) {
      for (const int64_t depth : {1, 2, 3, 16, 17}) {
        Random random(static_cast<uint64_t>(100 * count + depth));
        context = name_of(metric) + ", " + std::to_string(count) + " x " + std::to_string(depth);
        check_copies(exact_cloud(metric, count, depth, random));
      }
    }
  }
  Random random(1);
  const PointSet points = exact_cloud(Metric::kEuclidean, 200, 2, random).points();
  CHECK_EQ(points.vertices(), 25);  // 5 x 5 values: the cases above have many duplicates
}

TEST(point_set_same_direction_is_duplicate_only_for_cosine) {
  const std::vector<float> x = {3, 4, 6, 8, -3, -4, 0.75F, 1, 3, 4.5F};
  const PointSet cosine(x.data(), 5, 2, Metric::kCosine);
  CHECK_EQ(cosine.vertices(), 3);
  CHECK_EQ(cosine.vertex_of(0), cosine.vertex_of(1));
  CHECK_EQ(cosine.vertex_of(0), cosine.vertex_of(3));
  CHECK_EQ(PointSet(x.data(), 5, 2, Metric::kEuclidean).vertices(), 5);
}

TEST(point_set_rows_are_padded_with_zeros) {
  for (const Metric metric : kMetrics) {
    for (const int64_t depth : {1, 15, 16, 17, 64}) {
      Random random(static_cast<uint64_t>(depth));
      const PointSet points = real_cloud(metric, 9, depth, random).points();
      CHECK_EQ(points.stride(), (depth + 15) / 16 * 16);
      for (Vertex v = 0; v < points.vertices(); ++v) {
        const float* const x = points.vector(v);
        CHECK_EQ(x, points.data() + v * points.stride());
        CHECK(std::all_of(x + depth, x + points.stride(), [](float value) { return value == 0; }));
        double norm = 0;
        for (int64_t k = 0; k < depth; ++k) norm += double(x[k]) * double(x[k]);
        if (metric == Metric::kCosine) CHECK_NEAR(norm, 1, 1e-6);
      }
    }
  }
}

TEST(point_set_zero_row_is_at_cosine_distance_1) {
  for (const int64_t depth : {2, 15, 16, 31, 32}) {
    Random random(3);
    Cloud cloud = real_cloud(Metric::kCosine, 12, depth, random);
    for (const int64_t zero : {4, 9}) std::fill_n(cloud.x.begin() + zero * depth, depth, zero == 9 ? -0.0F : 0.0F);
    const PointSet points = cloud.points();
    context = "depth " + std::to_string(depth);
    CHECK_EQ(points.vertices(), 11);
    CHECK_EQ(points.vertex_of(9), points.vertex_of(4));
    CHECK_EQ(points.stride(), (depth + 16) / 16 * 16);  // with the extra dimension
    for (Vertex v = 0; v < 11; ++v)
      if (v != points.vertex_of(4)) CHECK_NEAR(exact_sq_dist(points, points.vertex_of(4), v), 2, 1e-6);
  }
  const float zeros[4] = {};
  CHECK_EQ(PointSet(zeros, 2, 2, Metric::kCosine).vertices(), 1);
  CHECK_EQ(PointSet(zeros, 2, 2, Metric::kEuclidean).stride(), 16);
}

TEST(point_set_negative_zero_equals_zero) {
  for (const Metric metric : kMetrics) {
    const std::vector<float> x = {0.0F, 1, -0.0F, 1, 0.0F, 0.0F, -0.0F, 0.0F};
    const PointSet points(x.data(), 4, 2, metric);
    context = name_of(metric);
    CHECK_EQ(points.vertices(), 2);
    CHECK_EQ(points.vertex_of(0), points.vertex_of(1));
    CHECK_EQ(points.vertex_of(2), points.vertex_of(3));
    float form[16];
    const float query[2] = {-0.0F, 2};
    CHECK(points.prepare(query, form));
    CHECK(!std::signbit(form[0]));
  }
}

TEST(point_set_hash_collisions_stay_distinct) {
  // The hash of csrc/fanng/point_set.cpp mixes in 64 bits at a time. For any two first words there are second words
  // with which the hashes collide. Most of those second words are finite floats.
  constexpr uint64_t kStart = 0x9E3779B97F4A7C15, kFactor = 0xFF51AFD7ED558CCD;
  const auto mixed = [](uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * kFactor;
    return hash ^ hash >> 32;
  };
  const auto word_of = [](float a, float b) {
    const float pair[2] = {a, b};
    uint64_t word;
    std::memcpy(&word, pair, sizeof(word));
    return word;
  };
  Random random(7);
  std::vector<float> x;
  while (x.size() < 4 * 30) {
    const float first[4] = {1, 2, 3, 4};
    const float other[2] = {static_cast<float>(random.unit()), static_cast<float>(random.unit())};
    const uint64_t word = word_of(first[2], first[3]) ^ mixed(kStart, word_of(first[0], first[1])) ^
                          mixed(kStart, word_of(other[0], other[1]));
    float pair[2];
    std::memcpy(pair, &word, sizeof(word));
    const auto usable = [](float value) { return std::isfinite(value) && std::fabs(value) < 1e18F && value != 0; };
    if (!usable(pair[0]) || !usable(pair[1])) continue;
    if (x.empty()) x.insert(x.end(), first, first + 4);
    x.insert(x.end(), {other[0], other[1], pair[0], pair[1]});
    // Add duplicates of the first and of other rows.
    const std::vector<float> first_row(x.begin(), x.begin() + 4), last_row(x.end() - 4, x.end());
    if (x.size() % 3 == 0) x.insert(x.end(), first_row.begin(), first_row.end());
    if (x.size() % 5 == 0) x.insert(x.end(), last_row.begin(), last_row.end());
  }
  check_copies({static_cast<int64_t>(x.size()) / 4, 4, Metric::kEuclidean, x});
}

TEST(point_set_nonfinite_rows_are_errors) {
  for (const Metric metric : kMetrics) {
    context = name_of(metric);
    std::vector<float> x(6 * 3, 1.0F);
    x[4 * 3 + 2] = kNan;
    CHECK_THROWS(points_of(x, 3, metric), std::invalid_argument, "vectors must be finite, got nan in row 4, column 2");
    x[2 * 3] = kInf;
    CHECK_THROWS(points_of(x, 3, metric), std::invalid_argument, "vectors must be finite, got inf in row 2, column 0");
    x[0] = -kInf;
    CHECK_THROWS(points_of(x, 3, metric), std::invalid_argument, "vectors must be finite, got -inf in row 0, column 0");
  }
}

TEST(point_set_overflowing_norms_are_errors_for_euclidean) {
  const std::vector<float> x = {1, 0, 0, 1e19F, 3, 4};
  CHECK_THROWS(points_of(x, 2, Metric::kEuclidean), std::invalid_argument, "vectors must have norms up to 9.2e18");
  CHECK_THROWS(points_of(x, 2, Metric::kEuclidean), std::invalid_argument, "in row 1");
  CHECK_EQ(points_of(x, 2, Metric::kCosine).vertices(), 3);
  // The largest accepted rows are at finite distances from each other.
  const std::vector<float> far = {9.2e18F, -9.2e18F};
  const PointSet points(far.data(), 2, 1, Metric::kEuclidean);
  CHECK(std::isfinite(fanng::Distances(points).between(0, 1)));
}

TEST(point_set_tiny_and_huge_rows_keep_direction) {
  constexpr float kTiny = std::numeric_limits<float>::denorm_min(), kHuge = std::numeric_limits<float>::max();
  const std::vector<float> x = {kTiny, 0, kHuge, 0, 0, kHuge, -kTiny, 0, kHuge, kHuge, kTiny, kTiny};
  const PointSet points(x.data(), 6, 2, Metric::kCosine);
  CHECK_EQ(points.vertices(), 4);
  CHECK_EQ(points.vertex_of(0), points.vertex_of(1));
  CHECK_EQ(points.vertex_of(4), points.vertex_of(5));
  CHECK_NEAR(exact_sq_dist(points, points.vertex_of(0), points.vertex_of(2)), 2, 1e-6);
  CHECK_NEAR(exact_sq_dist(points, points.vertex_of(0), points.vertex_of(3)), 4, 1e-6);
}

TEST(prepare_query_checks_and_normalizes) {
  const float x[2] = {1, 2};
  float form[16];
  for (const Metric metric : kMetrics) {
    const PointSet points(x, 1, 2, metric);
    const auto takes = [&](float a, float b) {
      const float query[2] = {a, b};
      return points.prepare(query, form);
    };
    CHECK(takes(3, 4));
    CHECK_EQ(form[0], metric == Metric::kCosine ? 0.6F : 3.0F);
    CHECK_EQ(form[1], metric == Metric::kCosine ? 0.8F : 4.0F);
    CHECK(std::all_of(form + 2, form + 16, [](float value) { return value == 0; }));
    CHECK(!takes(kNan, 1));
    CHECK(!takes(1, -kInf));
    CHECK_EQ(takes(1e19F, 0), metric == Metric::kCosine);
    CHECK(takes(0, 0));
  }
}

TEST(reported_distance_follows_metric) {
  const float x[1] = {1};
  CHECK_EQ(PointSet(x, 1, 1, Metric::kEuclidean).reported(9), 3.0F);
  CHECK_EQ(PointSet(x, 1, 1, Metric::kCosine).reported(3), 1.5F);
}

TEST(point_set_too_many_rows_are_an_error) {
  for (const Metric metric : kMetrics) {
    CHECK_THROWS(PointSet(nullptr, int64_t{1} << 31, 1, metric), std::invalid_argument,
                 "vectors must have at most 2147483647 rows, got 2147483648");
  }
}

TEST(point_set_of_dot_index_orders_as_inner_product) {
  Random random(3);
  for (const int64_t depth : {1, 2, 15, 16, 40}) {
    context = "depth " + std::to_string(depth);
    Cloud cloud = real_cloud(Metric::kDot, 60, depth, random);
    for (int64_t k = 0; k < depth; ++k) cloud.x[5 * depth + k] = 0;
    for (int64_t k = 0; k < depth; ++k) cloud.x[7 * depth + k] = 2 * cloud.x[6 * depth + k];  // another row
    for (int64_t k = 0; k < depth; ++k) cloud.x[9 * depth + k] = cloud.x[8 * depth + k];      // a duplicate
    const PointSet points = cloud.points();
    CHECK_EQ(points.vertices(), 59);
    CHECK_EQ(points.vertex_of(8), points.vertex_of(9));
    CHECK(points.stride() > depth);
    const Cloud queries = real_cloud(Metric::kDot, 20, depth, random);
    std::vector<float> form(points.stride());
    const double longest = points.longest();
    for (int64_t i = 0; i < queries.count; ++i) {
      CHECK(points.prepare(queries.row(i), form.data()));
      double norm = 0;
      for (int64_t k = 0; k < depth; ++k) norm += std::pow(static_cast<double>(queries.row(i)[k]), 2);
      norm = std::sqrt(norm);
      for (Vertex v = 0; v < static_cast<Vertex>(points.vertices()); ++v) {
        const double dot = points.dot(queries.row(i), v);
        const double want = 2 * longest * (longest - dot / norm);
        CHECK_NEAR(static_cast<double>(fanng::Distances(points).to(form.data(), v)), want, 1e-5 * longest * longest);
      }
    }
    for (Vertex v = 0; v < static_cast<Vertex>(points.vertices()); ++v) {
      points.prepare_vertex(v, form.data());
      const float sq_dist = fanng::Distances(points).to(form.data(), 3);
      const auto reported = static_cast<float>(-points.dot(points.vector(v), 3));
      CHECK_NEAR(points.squared(reported, v), sq_dist, 1e-5 * longest * longest);
    }
  }
  const std::vector<float> zeros(6, 0.0F), huge = {9e18F, 0, 0, -9e18F};
  CHECK_EQ(points_of(zeros, 2, Metric::kDot).vertices(), 1);
  CHECK_THROWS(points_of({1, 2, 1e19F, 0}, 2, Metric::kDot), std::invalid_argument, "vectors must have norms up to");
  const PointSet far = points_of(huge, 2, Metric::kDot);
  CHECK(std::isfinite(fanng::Distances(far).between(0, 1)));
}

TEST(point_set_inverted_points_have_inverse_norms) {
  const std::vector<float> x = {3, 4, 0, 0, 0, -0.5F, 0.03F, 0.04F, 3, 4, 1e-20F, 0};
  const PointSet points = points_of(x, 2, Metric::kDot), inverted = points.inverted();
  CHECK_EQ(inverted.vertices(), 5);
  CHECK(inverted.metric() == Metric::kEuclidean);
  CHECK_EQ(inverted.stride(), points.stride());
  const auto check = [&](int64_t row, float a, float b, float extra) {
    const float* const point = inverted.vector(inverted.vertex_of(row));
    CHECK_NEAR(point[0], a, 1e-6 * std::abs(a));
    CHECK_NEAR(point[1], b, 1e-6 * std::abs(b));
    CHECK_EQ(point[2], extra);
  };
  check(0, 0.6F, 0.8F, 0);
  check(1, 0, 0, 1e6F);
  check(2, 0, -10, 0);
  check(3, 60, 80, 0);
  check(4, 0.6F, 0.8F, 0);
  check(5, 1e6F, 0, 0);  // taken for longer
}
