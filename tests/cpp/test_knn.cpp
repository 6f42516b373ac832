// k nearest neighbors compared with a sort of all candidates.

#include "cpu/engine/knn.h"

#include <algorithm>

#include "support/check.h"
#include "support/names.h"
#include "support/selection_oracle.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

// A pool holds k + 16 up to k = 16, then 2 k, then k + 256.
constexpr int64_t kKs[] = {1, 2, 5, 16, 17, 100, 255, 257, kMaxNeighbors};

enum class Self { kAllowed, kExcluded };

template <class T>
struct Neighbors {
  std::vector<T> similarity;
  std::vector<int64_t> index;

  Neighbors(Similarity kind, const Batch<T>& queries, const Batch<T>* refs, int64_t k, Self self,
            const cpu::ThreadPool& pool)
      : similarity(queries.count * k, T(5)), index(queries.count * k, 77) {
    const Matrix<T> points{queries.x.data(), queries.count};
    const Matrix<T> others{refs ? refs->x.data() : nullptr, refs ? refs->count : 0};
    cpu::knn<T>(kind, points, refs ? &others : nullptr, queries.depth, k, self == Self::kExcluded, pool,
                similarity.data(), index.data());
  }
  bool same(const Neighbors& other) const { return index == other.index && same_bits(similarity, other.similarity); }
};

// Candidates of a query by (similarity, index), as the contract orders them.
std::vector<int64_t> ordered(const double* s, int64_t columns, int64_t own) {
  std::vector<int64_t> order;
  for (int64_t j = 0; j < columns; ++j)
    if (j != own && s[j] > -kInfinity) order.push_back(j);  // neither NaN nor -infinity
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return s[a] > s[b]; });
  return order;
}

// With `tolerance` 0, similarities and so the order must be exact.
template <class T>
void check_neighbors(const Neighbors<T>& got, const std::vector<double>& s, int64_t rows, int64_t columns, int64_t k,
                     bool exclude_self, double tolerance) {
  const std::string outer = context;
  for (int64_t i = 0; i < rows; ++i) {
    context = outer + ", row " + std::to_string(i);
    const double* s_row = s.data() + i * columns;
    const std::vector<int64_t> want = ordered(s_row, columns, exclude_self ? i : -1);
    const T* similarity = got.similarity.data() + i * k;
    const int64_t* index = got.index.data() + i * k;
    const int64_t found = std::min(k, static_cast<int64_t>(want.size()));
    bool right = true, ends = true;
    std::vector<bool> seen(columns, false);
    for (int64_t n = 0; n < found; ++n) {
      if (tolerance == 0) {
        right &= index[n] == want[n] && similarity[n] == T(s_row[want[n]]) &&
                 !(similarity[n] == T(0) && std::signbit(similarity[n]));  // zeros are positive
        continue;
      }
      right &= index[n] >= 0 && index[n] < columns && !(exclude_self && index[n] == i) && !seen[index[n]] &&
               std::fabs(similarity[n] - s_row[index[n]]) <= tolerance &&
               std::fabs(similarity[n] - s_row[want[n]]) <= tolerance && (n == 0 || similarity[n - 1] >= similarity[n]);
      if (!right) break;
      seen[index[n]] = true;
    }
    for (int64_t n = found; n < k; ++n) ends &= index[n] == -1 && std::isnan(similarity[n]);
    CHECK(right);
    CHECK(ends);
  }
  context = outer;
}

template <class T>
void check_case(Similarity kind, int64_t rows, int64_t refs, int64_t depth, int64_t k, Self self) {
  Random random(rows * 1000 + refs + depth);
  const Batch<T> queries(exact_values(kind), Labels::kOneClass, rows, depth, random);
  const Batch<T> others(exact_values(kind), Labels::kOneClass, std::max<int64_t>(refs, 0), depth, random);
  context = std::to_string(rows) + " queries, " + std::to_string(refs) + " refs, depth " + std::to_string(depth) +
            ", k " + std::to_string(k) + ", " + name_of(kind) + (self == Self::kExcluded ? "" : ", itself too");
  const Batch<T>& columns = refs < 0 ? queries : others;
  const Neighbors<T> got(kind, queries, refs < 0 ? nullptr : &others, k, self, SerialPool());
  check_neighbors(got, similarity_matrix(kind, queries, columns), rows, columns.count, k, self == Self::kExcluded, 0);
}

// Enough work for three threads or more, with many ties.
template <class T>
void check_workers(Similarity kind, int64_t rows, int64_t refs, int64_t depth, int64_t k, Self self) {
  Random random(5);
  const Batch<T> queries(exact_values(kind), Labels::kOneClass, rows, depth, random);
  const Batch<T> others(exact_values(kind), Labels::kOneClass, std::max<int64_t>(refs, 0), depth, random);
  const Batch<T>* columns = refs < 0 ? nullptr : &others;
  const Neighbors<T> serial(kind, queries, columns, k, self, SerialPool());
  const std::string what = std::to_string(rows) + " queries, " + std::to_string(refs) + " refs, k " + std::to_string(k);
  context = what;
  check_neighbors(serial, similarity_matrix(kind, queries, columns ? others : queries), rows, columns ? refs : rows, k,
                  self == Self::kExcluded, 0);
  for (const int64_t threads : {2, 7}) {
    context = what + ", " + std::to_string(threads) + " threads";
    CHECK(serial.same(Neighbors<T>(kind, queries, columns, k, self, ThreadedPool(threads))));
  }
  context = what + ", reverse order";
  CHECK(serial.same(Neighbors<T>(kind, queries, columns, k, self, ReversePool())));
}

// Merges all pairs of two blocks into lists, of which the first rows * k entries are those of the first block.
template <class T>
void merge_blocks(Similarity kind, const Batch<T>& batch, int64_t first_rows, int64_t k, const cpu::ThreadPool& pool,
                  std::vector<T>& key, std::vector<int64_t>& number) {
  const cpu::NeighborLists<T> first{key.data(), number.data()};
  const cpu::NeighborLists<T> others{key.data() + first_rows * k, number.data() + first_rows * k};
  const Matrix<T> all{batch.x.data(), batch.count};
  const Matrix<T> head{batch.x.data(), first_rows};
  const Matrix<T> tail{batch.x.data() + first_rows * batch.depth, batch.count - first_rows};
  const auto merge = [&](const Matrix<T>& rows, const cpu::KnnBlock<T>& block) {
    cpu::knn_block<T>(kind, rows, nullptr, batch.depth, k, true, block, pool);
  };
  merge(tail, {.first_rows = 0, .first_number = 0, .other_number = first_rows, .first = {}, .others = others});
  for (int repeat = 0; repeat < 2; ++repeat)
    merge(all,
          {.first_rows = first_rows, .first_number = 0, .other_number = first_rows, .first = first, .others = others});
  merge(head, {.first_rows = 0, .first_number = 0, .other_number = 0, .first = {}, .others = first});
}

}  // namespace

TEST(knn_with_forced_target_runs_on_it) { check_forced_target(); }

TYPED_TEST(knn_any_count_and_k_matches_sort, T) {
  struct Case {
    Similarity similarity;
    int64_t depth, k;
    Self self;
  };
  constexpr Self selves[] = {Self::kAllowed, Self::kExcluded};
  Deck<Case> cases(cases_of<Case>(kSimilarities, kShortDepths, kKs, selves), sizeof(T));
  const auto check_next = [&](int64_t rows, int64_t refs) {
    const auto& [similarity, depth, k, self] = cases.next();
    const bool few = (refs < 0 ? rows : refs) < 90;
    check_case<T>(similarity, rows, refs, depth, few ? std::min<int64_t>(k, 300) : k, refs < 0 ? self : Self::kAllowed);
  };
  for (const int64_t rows : kEdges) {
    for (int64_t n = 0; n < 20; ++n) check_next(rows, -1);
    for (const int64_t refs : kEdges)
      for (int64_t n = 0; n < 5; ++n) check_next(rows, refs);
  }
  // More groups of columns than a block has.
  check_case<T>(Similarity::kDot, 7, 800, 5, 20, Self::kAllowed);
  check_case<T>(Similarity::kEuclidean, 500, -1, 5, 20, Self::kExcluded);
}

TYPED_TEST(knn_real_numbers_match_within_rounding, T) {
  for (const Similarity kind : kSimilarities) {
    for (const int64_t depth : {1, 64, 257}) {
      for (const bool with_refs : {false, true}) {
        Random random(depth);
        const Batch<T> queries(Values::kReals, Labels::kOneClass, 97, depth, random);
        const Batch<T> refs(Values::kReals, Labels::kOneClass, 113, depth, random);
        const Batch<T>& columns = with_refs ? refs : queries;
        const double epsilon = std::numeric_limits<T>::epsilon();
        context = "reals, depth " + std::to_string(depth) + ", " + name_of(kind);
        const Neighbors<T> got(kind, queries, with_refs ? &refs : nullptr, 9,
                               with_refs ? Self::kAllowed : Self::kExcluded, SerialPool());
        check_neighbors(got, similarity_matrix(kind, queries, columns), 97, columns.count, 9, !with_refs,
                        kind == Similarity::kCosine ? 8 * epsilon : epsilon * static_cast<double>(depth));
      }
    }
  }
}

TYPED_TEST(knn_nan_and_minus_infinity_are_not_candidates, T) {
  const T nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
  for (const Similarity kind : kSimilarities) {
    Random random(11);
    Batch<T> queries(exact_values(kind), Labels::kOneClass, 41, 19, random);
    const Batch<T> clean(exact_values(kind), Labels::kOneClass, 45, 19, random);
    queries.row(3)[0] = nan;
    queries.row(17)[18] = nan;
    queries.row(20)[16] = inf;
    queries.row(40)[5] = -inf;
    context = "non-finite, " + name_of(kind);
    const SerialPool pool;
    const Batch<T> refs = queries;
    check_neighbors(Neighbors<T>(kind, queries, nullptr, 41, Self::kExcluded, pool),
                    similarity_matrix(kind, queries, queries), 41, 41, 41, true, 0);
    check_neighbors(Neighbors<T>(kind, queries, nullptr, 41, Self::kAllowed, pool),
                    similarity_matrix(kind, queries, queries), 41, 41, 41, false, 0);
    check_neighbors(Neighbors<T>(kind, clean, &refs, 41, Self::kAllowed, pool), similarity_matrix(kind, clean, refs),
                    45, 41, 41, false, 0);
    check_neighbors(Neighbors<T>(kind, refs, &clean, 5, Self::kAllowed, pool), similarity_matrix(kind, refs, clean), 41,
                    45, 5, false, 0);
  }
}

// Candidates arrive in ascending, descending or equal similarity, so that either all are inserted or none after the
// first k.
TYPED_TEST(knn_any_order_of_arrival_matches_sort, T) {
  Random random(2);
  for (const int64_t k : {1, 7, 16, 20, 300}) {
    for (const int slope : {1, -1, 0}) {
      Batch<T> queries(Values::kIntegers, Labels::kOneClass, 3, 1, random);
      Batch<T> refs(Values::kIntegers, Labels::kOneClass, 700, 1, random);
      queries.x = {T(1), T(2), T(-1)};
      for (int64_t j = 0; j < refs.count; ++j) refs.x[j] = T(slope * j);
      for (const Similarity kind : {Similarity::kDot, Similarity::kEuclidean}) {
        context = "arrivals, slope " + std::to_string(slope) + ", k " + std::to_string(k);
        check_neighbors(Neighbors<T>(kind, queries, &refs, k, Self::kAllowed, SerialPool()),
                        similarity_matrix(kind, queries, refs), 3, 700, k, false, 0);
        refs.count = 200;
        check_neighbors(Neighbors<T>(kind, refs, nullptr, k, Self::kExcluded, SerialPool()),
                        similarity_matrix(kind, refs, refs), 200, 200, k, true, 0);
        refs.count = 700;
      }
    }
  }
}

TEST(knn_any_threads_give_same_bits) {
  check_workers<float>(Similarity::kCosine, 289, -1, 200, 10, Self::kExcluded);
  check_workers<double>(Similarity::kEuclidean, 289, -1, 90, 33, Self::kAllowed);
  // Few queries and many refs: the columns are split. In the last case a split has fewer candidates than k.
  check_workers<float>(Similarity::kDot, 3, 9600, 250, 10, Self::kAllowed);
  check_workers<double>(Similarity::kEuclidean, 97, 769, 100, 20, Self::kAllowed);
  check_workers<float>(Similarity::kCosine, 1, 2500, 1500, 700, Self::kAllowed);
}

// Rows that reach a floor are visited with their keys, once; others are not.
template <class T>
void check_unordered(Similarity kind, int64_t rows, int64_t k) {
  constexpr int64_t kDepth = 5;
  Random random(7);
  const Batch<T> queries(exact_values(kind), Labels::kOneClass, rows, kDepth, random);
  const Neighbors<T> all(kind, queries, nullptr, k, Self::kExcluded, SerialPool());
  // Squared distances are integers here.
  const auto key = [&](T s) { return kind == Similarity::kEuclidean ? -std::round(s * s) : s; };
  std::vector<T> floor_key(rows);
  for (int64_t i = 0; i < rows; ++i)
    floor_key[i] = i % 5 == 0 ? -std::numeric_limits<T>::infinity() : key(all.similarity[i * k + i % k]);
  std::vector<int> visits(rows, 0);
  const auto visit = [&](int64_t i, std::span<const Neighbor<T>> neighbors) {
    ++visits[i];
    std::vector<std::pair<int64_t, T>> got, want;
    for (const Neighbor<T>& one : neighbors) got.push_back({one.index, one.key});
    for (int64_t n = i * k; n < (i + 1) * k; ++n)
      if (all.index[n] >= 0 && key(all.similarity[n]) >= floor_key[i])
        want.push_back({all.index[n], key(all.similarity[n])});
    std::sort(got.begin(), got.end());
    std::sort(want.begin(), want.end());
    CHECK(got == want);
  };
  const Matrix<T> matrix{queries.x.data(), rows};
  cpu::knn_unordered<T>(kind, matrix, kDepth, k, floor_key.data(), SerialPool(), visit);
  CHECK(visits == std::vector<int>(rows, 1));
}

TEST(knn_unordered_visits_best_that_reach_the_floor) {
  for (const Similarity kind : {Similarity::kDot, Similarity::kEuclidean}) {
    for (const int64_t k : {1, 9, 40, 200}) {
      context = name_of(kind) + ", k " + std::to_string(k);
      check_unordered<float>(kind, 150, k);
      check_unordered<double>(kind, 150, k);
    }
  }
}

TYPED_TEST(knn_block_merged_is_knn_of_all_rows, T) {
  for (const Similarity kind : kSimilarities) {
    for (const int64_t rows : {97, 200, 288, 701}) {
      for (const int64_t k : {1, 20, 300}) {
        Random random(rows + k);
        const Batch<T> batch(exact_values(kind), Labels::kOneClass, rows, 7, random);
        const Neighbors<T> whole(kind, batch, nullptr, k, Self::kExcluded, SerialPool());
        for (const int64_t first_rows : {96, 192}) {
          if (first_rows >= rows) continue;
          for (const int64_t threads : {1, 3}) {
            std::vector<T> key(rows * k, std::numeric_limits<T>::quiet_NaN());
            std::vector<int64_t> number(rows * k, -1);
            merge_blocks(kind, batch, first_rows, k, ThreadedPool(threads), key, number);
            context = "blocks of " + std::to_string(first_rows) + " and more of " + std::to_string(rows) + " rows, k " +
                      std::to_string(k) + ", " + name_of(kind);
            for (T& value : key) value = similarity_from_key(kind, value);
            CHECK(number == whole.index);
            CHECK(same_bits(key, whole.similarity));
          }
        }
      }
    }
  }
}
