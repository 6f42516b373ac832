#include "core/random.h"

#include <limits>
#include <vector>

#include "support/check.h"

using namespace hardmine;

TEST(drawn_rank_candidates_are_equally_likely) {
  for (const Index count : {1, 2, 3, 7, 10, 64}) {
    constexpr int kPerCandidate = 32;
    std::vector<int> picked(count);
    const int numbers = kPerCandidate * count;
    for (int i = 0; i < numbers; ++i) {
      const Index rank = drawn_rank((i + 0.5) / numbers, count);
      CHECK_EQ(rank, i / kPerCandidate);
      ++picked[rank];
    }
    for (const int times : picked) CHECK_EQ(times, kPerCandidate);
  }
  CHECK_EQ(drawn_rank(0.0, 5), 0);
  CHECK_EQ(drawn_rank(0.5, 2), 1);  // a boundary belongs to the upper candidate
  CHECK_EQ(drawn_rank(0.25, 4), 1);
}

TEST(drawn_rank_out_of_range_number_is_clamped) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const Index count : {1, 2, 1000, INT32_MAX - 1}) {
    for (const double u : {1.0, 1.5, 1e300, inf, 1 - 0x1p-53}) CHECK_EQ(drawn_rank(u, count), count - 1);
    for (const double u : {-0.0, -1e-9, -1e300, -inf, nan}) CHECK_EQ(drawn_rank(u, count), 0);
  }
}

TEST(ranked_positive_skips_the_anchor) {
  CHECK_EQ(ranked_positive(3, 0, -1), 3);
  CHECK_EQ(ranked_positive(3, 2, -1), 5);
  const std::vector<int64_t> run = {3, 4, 5, 6};
  for (const int64_t self : run) {
    Index rank = 0;
    for (const int64_t place : run)
      if (place != self) CHECK_EQ(ranked_positive(3, rank++, self), place);
  }
}

TEST(ranked_negative_skips_the_class) {
  // Every class among 9 indices.
  for (int members = 0; members < 1 << 9; ++members) {
    std::vector<Index> own, others;
    for (Index i = 0; i < 9; ++i) (members >> i & 1 ? own : others).push_back(i);
    for (size_t rank = 0; rank < others.size(); ++rank) {
      hardmine::test::context = "class " + std::to_string(members) + ", rank " + std::to_string(rank);
      CHECK_EQ(ranked_negative(own.data(), static_cast<Index>(own.size()), static_cast<Index>(rank)), others[rank]);
    }
  }
  CHECK_EQ(ranked_negative(nullptr, 0, INT32_MAX - 2), INT32_MAX - 2);
}
