#include "core/candidate.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "support/check.h"

using namespace hardmine;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Candidate {
  double key;
  Index index;
};
bool wins(const Candidate& a, const Candidate& b) { return beats(a.key, a.index, b.key, b.index); }

// Every key with every index: includes ties, zeros of both signs and infinities.
std::vector<Candidate> all_candidates() {
  std::vector<Candidate> all;
  for (const double key : {-kInf, -1.0, -0.0, 0.0, 5e-324, 1.0, kInf})
    for (const Index index : {0, 1, 7, INT32_MAX - 1}) all.push_back({key, index});
  return all;
}

}  // namespace

TEST(beats_equal_keys_prefers_lower_index) {
  CHECK(beats(1.0, 9, 0.5, 0));
  CHECK(!beats(0.5, 0, 1.0, 9));
  CHECK(beats(1.0, 3, 1.0, 4));
  CHECK(!beats(1.0, 4, 1.0, 3));
  CHECK(!beats(1.0, 3, 1.0, 3));
  CHECK(beats(-0.0, 3, 0.0, 4));  // the zeros tie
  CHECK(beats(1.0F, 3, 1.0F, 4));
}

TEST(beats_distinct_indices_is_a_total_order) {
  const std::vector<Candidate> all = all_candidates();
  for (const Candidate& a : all) {
    for (const Candidate& b : all) {
      if (a.index != b.index) CHECK_EQ(wins(a, b) + wins(b, a), 1);
      for (const Candidate& c : all)
        if (wins(a, b) && wins(b, c)) CHECK(wins(a, c));
    }
  }
}

TEST(beats_nan_key_never_wins) {
  for (const Candidate& b : all_candidates()) CHECK(!beats(kNan, 0, b.key, b.index));
  CHECK(!beats(kNan, 0, -kInf, kAtLowerBound));
  CHECK(!beats(kNan, 0, -kInf, kBelowRange));
}

TEST(beats_sentinels_are_not_candidates) {
  CHECK(!is_candidate(kAtLowerBound));
  CHECK(!is_candidate(kBelowRange));
  CHECK(is_candidate(0));
  CHECK(is_candidate(INT32_MAX - 1));
  // At an equal key every real index beats kAtLowerBound, and none beats kBelowRange.
  for (const Index index : {0, 5, INT32_MAX - 1}) {
    CHECK(beats(2.0, index, 2.0, kAtLowerBound));
    CHECK(!beats(2.0, index, 2.0, kBelowRange));
    CHECK(!beats(-kInf, index, -kInf, kBelowRange));
    CHECK(beats(-1e308, index, -kInf, kBelowRange));
    CHECK(!beats(1.9, index, 2.0, kAtLowerBound));
  }
}

TEST(beats_any_split_and_order_gives_same_maximum) {
  // Every permutation of eight candidates with ties, split in two. Each part is reduced, then the two results are
  // merged.
  const std::vector<double> key = {0, 1, 1, -1, 1, 0, -kInf, kNan};
  std::vector<Index> order = {0, 1, 2, 3, 4, 5, 6, 7};
  do {
    for (size_t cut = 0; cut <= order.size(); cut += 3) {
      Candidate best[2] = {{-kInf, kBelowRange}, {-kInf, kBelowRange}};
      for (size_t i = 0; i < order.size(); ++i) {
        const Candidate c{key[order[i]], order[i]};
        if (wins(c, best[i < cut])) best[i < cut] = c;
      }
      CHECK_EQ(wins(best[1], best[0]) ? best[1].index : best[0].index, 1);
    }
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(packed_candidate_any_two_compare_as_unpacked) {
  std::vector<float> keys = {0.0F,
                             1.0F,
                             1.5F,
                             3e38F,
                             1e-30F,
                             std::numeric_limits<float>::denorm_min(),
                             std::numeric_limits<float>::infinity()};
  for (size_t i = keys.size(); i > 0; --i) keys.push_back(-keys[i - 1]);
  const std::vector<Index> indices = {0, 1, 7, 1 << 20, INT32_MAX - 1, kAtLowerBound};
  for (const float key : keys) {
    for (const Index index : indices) {
      const uint64_t packed = packed_candidate(key, index);
      CHECK_EQ(key_of_packed(packed), key);
      CHECK_EQ(index_of_packed(packed), index);
      for (const float other_key : keys)
        for (const Index other : indices)
          CHECK_EQ(packed > packed_candidate(other_key, other), beats(key, index, other_key, other));
    }
  }
}

TEST(packed_candidate_zeros_of_both_signs_tie) { CHECK_EQ(packed_candidate(-0.0F, 3), packed_candidate(0.0F, 3)); }

TEST(packed_candidate_sentinels_keep_their_order) {
  for (const float key : {-std::numeric_limits<float>::infinity(), -1.0F, 0.0F, 2.0F}) {
    const uint64_t start = packed_candidate(key, kBelowRange), bound = packed_candidate(key, kAtLowerBound);
    CHECK_EQ(index_of_packed(start), kBelowRange);
    CHECK_EQ(index_of_packed(bound), kAtLowerBound);
    for (const Index index : {0, 5, INT32_MAX - 1}) {
      CHECK(packed_candidate(key, index) > bound);  // the key itself may be selected
      CHECK(packed_candidate(key, index) < start);  // only larger ones may
      CHECK(packed_candidate(key + 1, index) > start || std::isinf(key));
    }
  }
}
