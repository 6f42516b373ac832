// k nearest neighbors compared with a sort of all pairs. Embeddings are small integers: similarities are exact under
// every MmaPolicy and tie often.

#include "cuda/kernels/knn.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/gemm/mma_policy.h"
#include "host_workspace.h"
#include "support/check.h"

using namespace hardmine;
using namespace hardmine::cuda;
using hardmine::test::context;

namespace {

enum class Rows { kMixed, kEqual, kAscending, kDescending };

struct Problem {
  int64_t queries, refs, depth, k;  // refs 0: the queries themselves
  bool exclude_self;
  Rows rows = Rows::kMixed;
  int64_t max_blocks = kMaxBlocks;
  int64_t nan_ref = -1;  // a row of refs that no query may get
};

std::vector<float> numbers(int64_t count, int64_t depth, Rows rows, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> x(count * depth);
  for (int64_t i = 0; i < count * depth; ++i) {
    const int64_t row = i / depth;
    x[i] = rows == Rows::kMixed       ? static_cast<float>(static_cast<int64_t>(random() % 7) - 3)
           : rows == Rows::kEqual     ? 2.0f
           : rows == Rows::kAscending ? static_cast<float>(row / 8)
                                      : static_cast<float>((count - row) / 8);
  }
  return x;
}

std::vector<float> refs_of(const Problem& p, const std::vector<float>& queries) {
  if (!p.refs) return queries;
  std::vector<float> refs = numbers(p.refs, p.depth, p.rows, 2);
  if (p.nan_ref >= 0) refs[p.nan_ref * p.depth] = std::numeric_limits<float>::quiet_NaN();
  return refs;
}

template <class MmaPolicy, class Scalar>
void check_nearest(const Problem& p) {
  using acc_t = typename MmaPolicy::acc_t;
  const Similarity kind = MmaPolicy::kSquaredDifferences ? Similarity::kEuclidean : Similarity::kDot;
  const std::vector<float> x = numbers(p.queries, p.depth, Rows::kMixed, 1), y = refs_of(p, x);
  const auto scalars = [](const std::vector<float>& from) {
    std::vector<Scalar> to;
    for (const typename MmaPolicy::acc_t number : from) to.push_back(from_acc<Scalar>(number));
    return to;
  };
  const std::vector<Scalar> queries = scalars(x), refs = scalars(y);
  const int64_t ref_count = static_cast<int64_t>(refs.size()) / p.depth;
  const Matrix<Scalar> gallery{refs.data(), ref_count};
  std::vector<acc_t> similarity(p.queries * p.k, acc_t(77));
  std::vector<int64_t> index(p.queries * p.k, 77);
  HostWorkspace workspace;
  Stream stream;
  stream.max_blocks = p.max_blocks;
  knn<MmaPolicy>(kind, Matrix<Scalar>{queries.data(), p.queries}, p.refs ? &gallery : nullptr, p.depth, p.k,
                 p.exclude_self, KnnOut<acc_t>{similarity.data(), index.data()}, workspace, stream);

  for (int64_t i = 0; i < p.queries; ++i) {
    std::vector<double> order(ref_count);
    std::vector<int64_t> candidates;
    for (int64_t j = 0; j < ref_count; ++j) {
      for (int64_t d = 0; d < p.depth; ++d) {
        const double a = x[i * p.depth + d], b = y[j * p.depth + d];
        order[j] += MmaPolicy::kSquaredDifferences ? -(a - b) * (a - b) : a * b;
      }
      if ((p.refs || !p.exclude_self || i != j) && j != p.nan_ref) candidates.push_back(j);
    }
    std::stable_sort(candidates.begin(), candidates.end(), [&](int64_t a, int64_t b) { return order[a] > order[b]; });
    for (int64_t n = 0; n < p.k; ++n) {
      const bool found = n < static_cast<int64_t>(candidates.size());
      CHECK_EQ(index[i * p.k + n], found ? candidates[n] : -1);
      const acc_t got = similarity[i * p.k + n];
      if (found) {
        CHECK_EQ(got, similarity_from_key(kind, static_cast<acc_t>(order[candidates[n]])));
      } else {
        CHECK(std::isnan(got));
      }
    }
  }
}

// Checks every MmaPolicy and order of threads.
void check_all(const std::string& what, const Problem& p) {
  using emulation::Order;
  int number = 0;
  for (const Order order : {Order::kAscending, Order::kDescending, Order::kShuffled}) {
    emulation::set_order(order, 3);
    context = what + ", order of threads " + std::to_string(number++) + ": ";
    const std::string before = context;
    const auto with = [&](const char* mma_policy) { context = before + mma_policy; };
    with("float products");
    check_nearest<FloatProducts, float>(p);
    with("double squared differences");
    check_nearest<DoubleSquaredDifferences, double>(p);
    if (order != Order::kShuffled) continue;
    with("float squared differences");
    check_nearest<FloatSquaredDifferences, float>(p);
    with("squared differences of bfloat16");
    check_nearest<FloatSquaredDifferences, BFloat16>(p);
    with("double products");
    check_nearest<DoubleProducts, double>(p);
    with("TF32 products");
    check_nearest<Tf32Products, float>(p);
    with("bfloat16 products");
    check_nearest<Bfloat16Products, BFloat16>(p);
    with("float16 products");
    check_nearest<Float16Products, Float16>(p);
  }
  emulation::set_order(Order::kAscending);
}

}  // namespace

TEST(knn_counts_around_panel_size_match_sort) {
  for (const int64_t rows : {1, 2, 127, 129}) check_all("rows " + std::to_string(rows), {rows, 0, 3, 5, true});
  check_all("with itself", {70, 0, 3, 71, false});
}

TEST(knn_reservoir_overflow_and_splits_match_sort) {
  // 700 refs: 2 shares of 3 panels of 128, 5 of 2 or 3 of 64.
  for (const int64_t k : {1, 20, 130}) check_all("k " + std::to_string(k), {3, 700, 2, k, false});
}

TEST(knn_any_order_of_arrival_matches_sort) {
  for (const Rows rows : {Rows::kEqual, Rows::kAscending, Rows::kDescending})
    check_all("rows " + std::to_string(static_cast<int>(rows)), {6, 650, 2, 9, false, rows});  // two rows per warp
}

TEST(knn_largest_k_matches_sort) {
  context = "largest k";
  check_nearest<FloatProducts, float>({2, 1500, 2, kMaxNeighbors, false});
  check_nearest<DoubleSquaredDifferences, double>({2, 1300, 2, kMaxNeighbors, false});
}

TEST(knn_few_blocks_match_sort) {
  Problem p{140, 600, 2, 4, false};
  p.max_blocks = 2;
  context = "two blocks";
  check_nearest<FloatProducts, float>(p);
  check_nearest<DoubleProducts, double>(p);
}

// Each warp takes several queries. The candidates of the first split end at odd offsets.
TEST(knn_several_queries_per_warp_match_sort) {
  Problem p{9, 700, 2, 300, false};
  p.max_blocks = 1;
  p.nan_ref = 7;
  for (const emulation::Order order : {emulation::Order::kAscending, emulation::Order::kDescending}) {
    emulation::set_order(order);
    context = "in turn";
    check_nearest<FloatProducts, float>(p);
    check_nearest<DoubleSquaredDifferences, double>(p);
  }
  emulation::set_order(emulation::Order::kAscending);
}

TEST(knn_empty_inputs_give_sentinels) {
  context = "none";
  check_nearest<FloatProducts, float>({0, 4, 2, 3, false});
  HostWorkspace workspace;
  const float query[] = {1, 2}, none[] = {0};
  const Matrix<float> gallery{none, 0};
  float similarity[2] = {};
  int64_t index[2] = {};
  knn<FloatProducts>(Similarity::kDot, Matrix<float>{query, 1}, &gallery, 2, 2, false, KnnOut<float>{similarity, index},
                     workspace, Stream{});
  CHECK(std::isnan(similarity[0]) && std::isnan(similarity[1]));
  CHECK(index[0] == -1 && index[1] == -1);
}

TEST(knn_memory_grows_with_reservoirs_not_pairs) {
  std::vector<float> x = numbers(40, 1, Rows::kMixed, 5), y = numbers(3000, 1, Rows::kMixed, 6);
  const Matrix<float> gallery{y.data(), 3000};
  std::vector<float> similarity(40);
  std::vector<int64_t> index(40);
  HostWorkspace few, many;
  knn<FloatProducts>(Similarity::kDot, Matrix<float>{x.data(), 1}, &gallery, 1, 1, false,
                     KnnOut<float>{similarity.data(), index.data()}, few, Stream{});
  knn<FloatProducts>(Similarity::kDot, Matrix<float>{x.data(), 40}, &gallery, 1, 1, false,
                     KnnOut<float>{similarity.data(), index.data()}, many, Stream{});
  // For a query more, a pool of up to 256 candidates a share, of which 24 panels make 12; and marks of row groups.
  CHECK(many.bytes() - few.bytes() <= 39 * 12 * (256 * 8 + 4) + 2 * 4);
}
