// Ranks of positives compared with a sort of all candidates.

#include "cpu/engine/best_positive_ranks.h"
#include "cpu/engine/positive_ranks.h"

#include <algorithm>

#include "support/check.h"
#include "support/names.h"
#include "support/selection_oracle.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr int64_t kSizes[] = {0, 1, 2, 33, 96, 97, 193};

using Ranks = std::vector<std::vector<int64_t>>;  // of each query, ascending

// `s`: [queries, refs], with `symmetric` of the queries among themselves.
template <class T>
Ranks sorted_ranks(const std::vector<double>& s, const Batch<T>& queries, const Batch<T>& refs, bool symmetric,
                   const std::vector<int64_t>& id, const std::vector<int64_t>& ref_id) {
  Ranks ranks(queries.count);
  for (int64_t q = 0; q < queries.count; ++q) {
    std::vector<int64_t> order;
    for (int64_t j = 0; j < refs.count; ++j) {
      const bool excluded = !id.empty() && id[q] >= 0 && id[q] == ref_id[j];
      if (!excluded && !(symmetric && j == q)) order.push_back(j);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return s[q * refs.count + a] > s[q * refs.count + b]; });
    for (size_t n = 0; n < order.size(); ++n)
      if (refs.label[order[n]] == queries.label[q]) ranks[q].push_back(static_cast<int64_t>(n) + 1);
  }
  return ranks;
}

template <class T>
Ranks engine_ranks(Similarity kind, const Batch<T>& queries, const Batch<T>* refs, const std::vector<int64_t>& id,
                   const std::vector<int64_t>& ref_id, const cpu::ThreadPool& pool) {
  const auto view = [](const Batch<T>& batch, const std::vector<int64_t>& ids) {
    return LabeledMatrix<T>{batch.x.data(), batch.label.data(), batch.count, ids.empty() ? nullptr : ids.data()};
  };
  const LabeledMatrix<T> others = refs ? view(*refs, ref_id) : LabeledMatrix<T>{};
  const cpu::PositiveRanks got =
      cpu::positive_ranks<T>(kind, view(queries, id), refs ? &others : nullptr, queries.depth, {}, pool);
  Ranks ranks;
  for (int64_t q = 0; q < queries.count; ++q)
    ranks.emplace_back(got.rank.begin() + got.first[q], got.rank.begin() + got.first[q + 1]);
  return ranks;
}

std::vector<int64_t> some_ids(int64_t count, Random& random) {
  std::vector<int64_t> ids(count);
  for (int64_t& id : ids) id = random.below(20) - 4;
  return ids;
}

}  // namespace

TEST(positive_ranks_run_on_forced_target) { check_forced_target(); }

TYPED_TEST(positive_ranks_equal_positions_in_sorted_candidates, T) {
  Random random(1);
  for (const Similarity kind : kSimilarities) {
    for (const Labels labels :
         {Labels::kRandom, Labels::kOneClass, Labels::kAllDistinct, Labels::kPairsSorted, Labels::kExtreme}) {
      for (const int64_t count : kSizes) {
        for (const bool has_ids : {false, true}) {
          const Batch<T> queries(exact_values(kind), labels, count, 17, random);
          const Batch<T> refs(exact_values(kind), labels, count / 2 + 3, 17, random);
          const std::vector<int64_t> id = has_ids ? some_ids(queries.count, random) : std::vector<int64_t>{};
          const std::vector<int64_t> ref_id = has_ids ? some_ids(refs.count, random) : std::vector<int64_t>{};
          context = name_of(kind) + ", " + std::to_string(count) + (has_ids ? " rows with ids" : " rows");
          CHECK(engine_ranks<T>(kind, queries, nullptr, id, {}, SerialPool()) ==
                sorted_ranks(similarity_matrix(kind, queries, queries), queries, queries, true, id, id));
          CHECK(engine_ranks<T>(kind, queries, &refs, id, ref_id, SerialPool()) ==
                sorted_ranks(similarity_matrix(kind, queries, refs), queries, refs, false, id, ref_id));
        }
      }
    }
  }
}

TYPED_TEST(positive_ranks_nan_row_is_no_candidate, T) {
  Random random(2);
  Batch<T> rows(Values::kIntegers, Labels::kRandom, 50, 5, random);
  const Ranks before = engine_ranks<T>(Similarity::kDot, rows, nullptr, {}, {}, SerialPool());
  rows.x[7 * rows.depth] = T(kNaN);
  const Ranks after = engine_ranks<T>(Similarity::kDot, rows, nullptr, {}, {}, SerialPool());
  CHECK(after[7].empty());
  for (int64_t q = 0; q < rows.count; ++q) {
    const bool same_class = q != 7 && rows.label[q] == rows.label[7];
    CHECK_EQ(after[q].size() + (same_class ? 1 : 0), q == 7 ? size_t{0} : before[q].size());
  }
}

TYPED_TEST(positive_ranks_any_threads_give_same_ranks, T) {
  Random random(3);
  const Batch<T> queries(Values::kReals, Labels::kRandom, 700, 40, random);
  const Batch<T> refs(Values::kReals, Labels::kRandom, 500, 40, random);
  for (const Batch<T>* others : {static_cast<const Batch<T>*>(nullptr), &refs}) {
    const Ranks want = engine_ranks<T>(Similarity::kCosine, queries, others, {}, {}, SerialPool());
    for (const auto& pool : parallel_pools())
      CHECK(engine_ranks<T>(Similarity::kCosine, queries, others, {}, {}, *pool) == want);
  }
}

// The candidates before the first of the ranks, in one pass and as the sum over parts.
TYPED_TEST(best_positive_ranks_equal_first_of_ranks, T) {
  Random random(4);
  for (const Labels labels : {Labels::kRandom, Labels::kOneClass, Labels::kAllDistinct, Labels::kPairsSorted}) {
    for (const int64_t count : {1, 2, 97, 300}) {
      for (const bool has_ids : {false, true}) {
        const Batch<T> queries(exact_values(Similarity::kCosine), labels, count, 17, random);
        const Batch<T> refs(exact_values(Similarity::kCosine), labels, count / 2 + 3, 17, random);
        const std::vector<int64_t> id = has_ids ? some_ids(queries.count, random) : std::vector<int64_t>{};
        const std::vector<int64_t> ref_id = has_ids ? some_ids(refs.count, random) : std::vector<int64_t>{};
        for (const Batch<T>* others : {static_cast<const Batch<T>*>(nullptr), &refs}) {
          const Ranks ranks = engine_ranks<T>(Similarity::kCosine, queries, others, id, ref_id, SerialPool());
          const LabeledMatrix<T> rows{queries.x.data(), queries.label.data(), count, has_ids ? id.data() : nullptr};
          const LabeledMatrix<T> columns{refs.x.data(), refs.label.data(), refs.count,
                                         has_ids ? ref_id.data() : nullptr};
          for (const int64_t limit : {1, 3, 64}) {
            for (const int64_t parts : {1, 3}) {
              context = std::to_string(count) + (others ? " queries, refs" : " rows") + ", limit " +
                        std::to_string(limit) + ", parts " + std::to_string(parts);
              std::vector<int64_t> sum(count, 0), better(count, -1);
              for (int64_t part = 0; part < parts; ++part) {
                cpu::best_positive_ranks<T>(rows, others ? &columns : nullptr, 17, limit, {part, parts},
                                            ThreadedPool(1 + 2 * (parts - 1)), better.data());
                for (int64_t q = 0; q < count; ++q) sum[q] += better[q];
              }
              for (int64_t q = 0; q < count; ++q) {
                const int64_t want = ranks[q].empty() ? limit : std::min(limit, ranks[q][0] - 1);
                CHECK_EQ(std::min(limit, sum[q]), want);
                if (parts == 1) CHECK_EQ(sum[q], want);
              }
            }
          }
        }
      }
    }
  }
}
