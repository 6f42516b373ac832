// The lists of pairs that ids exclude, against all comparisons of ids.

#include "cpu/engine/excluded_pairs.h"

#include <algorithm>

#include "support/check.h"
#include "support/samples.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr int64_t kSizes[] = {0, 1, 2, 7, 31, 97, 200};

// Rows of depth 1 whose labels and ids are below the given bounds. Some ids are negative; distinct ids collide in many
// hash functions, being multiples of a power of two.
struct Samples {
  std::vector<float> x;
  std::vector<int64_t> label, id;

  Samples(Random& random, int64_t count, int64_t labels, int64_t ids) : x(count, 1.0F) {
    for (int64_t i = 0; i < count; ++i) {
      label.push_back(random.below(labels));
      id.push_back((random.below(ids + 3) - 3) * (int64_t{1} << 40));
    }
  }
  int64_t count() const { return static_cast<int64_t>(x.size()); }
  cpu::SortedRows<float> sorted() const {
    return {
        {x.data(), label.data(), count(), id.data()}, 1, nullptr, nullptr, cpu::PackFor::kRowsAndColumns, SerialPool()};
  }
};

void check_lists(const Samples& rows, const Samples& columns) {
  const bool symmetric = &rows == &columns;
  const cpu::SortedRows<float> a = rows.sorted(), b = columns.sorted();
  const cpu::SortedRows<float>& right = symmetric ? a : b;
  const cpu::PairExclusions exclusions(rows.id.data(), a, columns.id.data(), right);
  const int64_t step = cpu::kernels<cpu::TileKernels<float>>().micro_tile_rows;
  std::vector<Index> min_column(ceil_div(rows.count(), step), kAtLowerBound), max_column(min_column.size(), -1);
  int64_t pairs = 0;
  for (int64_t r = 0; r < rows.count(); ++r) {
    const int64_t id = rows.id[a.permutation()[r]];
    std::vector<Index> want;
    for (int64_t c = 0; c < columns.count(); ++c)
      if (id >= 0 && columns.id[right.permutation()[c]] == id) want.push_back(static_cast<Index>(c));
    if (symmetric && want.size() == 1) want.clear();  // the row itself
    pairs += static_cast<int64_t>(want.size());
    if (!want.empty()) {
      min_column[r / step] = std::min(min_column[r / step], want.front());
      max_column[r / step] = std::max(max_column[r / step], want.back());
    }
    CHECK_EQ(exclusions.count(r, 0, columns.count()), static_cast<int64_t>(want.size()));
    const int64_t begin = columns.count() / 3, end = columns.count() / 2;
    CHECK_EQ(exclusions.count(r, begin, end),
             std::count_if(want.begin(), want.end(), [&](Index c) { return c >= begin && c < end; }));
    const cpu::ExcludedPairs* view = exclusions.view();
    if (!view) continue;
    CHECK(std::vector<Index>(view->column + view->begin[r], view->column + view->end[r]) == want);
  }
  CHECK_EQ(exclusions.view() != nullptr, pairs > 0);
  if (!exclusions.view()) return;
  for (size_t t = 0; t < min_column.size(); ++t) {
    CHECK_EQ(exclusions.view()->min_column[t], min_column[t]);
    CHECK_EQ(exclusions.view()->max_column[t], max_column[t]);
  }
}

}  // namespace

TEST(excluded_pairs_random_ids_match_all_comparisons) {
  Random random(1);
  for (const int64_t count : kSizes) {
    for (const int64_t ids : {1, 5, 100, 10000}) {
      context = std::to_string(count) + " rows, " + std::to_string(ids) + " ids";
      const Samples rows(random, count, 4, ids);
      check_lists(rows, rows);
      for (const int64_t others : kSizes) check_lists(rows, Samples(random, others, 6, ids));
    }
  }
}

TEST(excluded_pairs_without_ids_are_none) {
  Random random(2);
  const Samples rows(random, 50, 4, 3);
  const cpu::SortedRows<float> sorted = rows.sorted();
  CHECK(cpu::PairExclusions(nullptr, sorted, nullptr, sorted).view() == nullptr);
  CHECK(cpu::PairExclusions(rows.id.data(), sorted, rows.id.data(), sorted).view() != nullptr);
}

// A search probes one run of occupied slots at most.
TEST(hash_of_id_any_stride_makes_short_runs) {
  constexpr int kBits = 17;
  for (const int64_t stride : {1, 2, 64, 832040, 1134903170}) {
    context = "stride " + std::to_string(stride);
    std::vector<bool> occupied(size_t{1} << kBits);
    for (int64_t i = 0; i < 30000; ++i) occupied[cpu::hash_of_id(i * stride) >> (64 - kBits)] = true;
    int64_t run = 0, max_run = 0;
    for (const bool slot : occupied) max_run = std::max(max_run, run = slot ? run + 1 : 0);
    CHECK(max_run < 30);
  }
}
