#include "core/random.h"

#include <bit>
#include <set>

#include "support/check.h"

using namespace hardmine;

TEST(random_bits_seed_0_is_splitmix64) {
  // The published first numbers of the sequence with seed 0.
  CHECK_EQ(random_bits(0, 0), 0xE220A8397B1DCDAFu);
  CHECK_EQ(random_bits(0, 1), 0x6E789E6AA1B965F4u);
  CHECK_EQ(random_bits(0, 2), 0x06C45D188009454Fu);
}

TEST(random_bits_every_bit_is_set_half_of_the_time) {
  constexpr int kNumbers = 4096;
  for (const uint64_t seed : {0ull, 1ull, 2ull, 1ull << 63, ~0ull}) {
    int set[64] = {};
    std::set<uint64_t> seen;
    for (int i = 0; i < kNumbers; ++i) {
      const uint64_t bits = random_bits(seed, i);
      seen.insert(bits);
      for (int b = 0; b < 64; ++b) set[b] += bits >> b & 1;
    }
    CHECK_EQ(seen.size(), size_t{kNumbers});
    // Five standard deviations.
    for (const int times : set) CHECK_NEAR(times, kNumbers / 2, 5 * 32);
  }
}

TEST(random_bits_adjacent_seeds_are_independent) {
  int set = 0;
  for (uint64_t seed = 0; seed < 1000; ++seed) set += std::popcount(random_bits(seed, 7) ^ random_bits(seed + 1, 7));
  CHECK_NEAR(set, 32000, 5 * 127);
}

TEST(random_unit_is_uniform_below_1) {
  double sum = 0, smallest = 1, largest = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = random_unit(3, i);
    sum += u;
    smallest = std::min(smallest, u);
    largest = std::max(largest, u);
    CHECK_EQ(u * 0x1p53, static_cast<double>(random_bits(3, i) >> 11));
  }
  CHECK_NEAR(sum / 10000, 0.5, 5 * 0.29 / 100);
  CHECK(smallest >= 0 && smallest < 0.001);
  CHECK(largest < 1 && largest > 0.999);
}
