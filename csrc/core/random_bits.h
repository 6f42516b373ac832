// Random numbers without a state: each is a function of a seed and of its place in the sequence, so that what draws
// them may be spread over any number of threads.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hardmine {

// Number `i` of the sequence of `seed` (splitmix64): 64 bits, each set with chance 1/2.
HARDMINE_HD uint64_t random_bits(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0xD1342543DE82EF95 + (i + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// A number in [0, 1): one of the 2^53 multiples of 2^-53 there.
HARDMINE_HD double random_unit(uint64_t seed, uint64_t i) {
  return static_cast<double>(random_bits(seed, i) >> 11) * 0x1p-53;
}

}  // namespace hardmine
