// Sorting of candidates by a warp in shared memory.
#pragma once

#include <limits>

#include "core/int_math.h"
#include "cuda/device/packed_candidate.h"

namespace hardmine::cuda {

// Sorts list[0, size), best first, with a bitonic network, padded to a power of two with sentinels. All lanes call it;
// it starts with a barrier of the warp.
template <class acc_t>
__device__ __forceinline__ void warp_bitonic_sort(PackedCandidate<acc_t>* list, int size) {
  const int width = next_power_of_two(size);
  for (int i = size + lane_index(); i < width; i += 32) list[i] = no_candidate<acc_t>();
  __syncwarp();
  for (int span = 2; span <= width; span *= 2) {
    for (int step = span / 2; step > 0; step /= 2) {
      for (int i = lane_index(); i < width / 2; i += 32) {
        const int a = 2 * i - (i & (step - 1)), b = a + step;
        const PackedCandidate<acc_t> at_a = list[a], at_b = list[b];
        const bool best_first = (a & span) == 0;
        if (best_first ? at_b.beats(at_a) : at_a.beats(at_b)) {
          list[a] = at_b;
          list[b] = at_a;
        }
      }
      __syncwarp();
    }
  }
}

}  // namespace hardmine::cuda
