// A candidate and its key, as kernels exchange and store them.
#pragma once

#include <limits>

#include "core/candidate.h"
#include "core/selection.h"
#include "cuda/device/device.h"

namespace hardmine::cuda {

template <class acc_t>
struct PackedCandidate;

// One integer, so that an atomic maximum selects the best candidate of any number of blocks.
template <>
struct PackedCandidate<float> {
  uint64_t packed;

  static HARDMINE_HD PackedCandidate of(float key, Index index) { return {packed_candidate(key, index)}; }
  HARDMINE_HD float key() const { return key_of_packed(packed); }
  HARDMINE_HD Index index() const { return index_of_packed(packed); }
  HARDMINE_HD bool beats(const PackedCandidate& other) const { return packed > other.packed; }
};

template <>
struct PackedCandidate<double> {
  double stored_key;
  Index stored_index;

  static HARDMINE_HD PackedCandidate of(double key, Index index) { return {key, index}; }
  HARDMINE_HD double key() const { return stored_key; }
  HARDMINE_HD Index index() const { return stored_index; }
  HARDMINE_HD bool beats(const PackedCandidate& other) const {
    return hardmine::beats(stored_key, stored_index, other.stored_key, other.stored_index);
  }
};

// Loses to every candidate: no candidate has the key -infinity.
template <class acc_t>
HARDMINE_HD PackedCandidate<acc_t> no_candidate() {
  return PackedCandidate<acc_t>::of(-std::numeric_limits<acc_t>::infinity(), kBelowRange);
}
// What the running best of an admissible range of keys starts from.
template <class acc_t>
HARDMINE_HD PackedCandidate<acc_t> start_candidate(const KeyRange<acc_t>& range) {
  return PackedCandidate<acc_t>::of(range.start_key, range.start_index);
}

__device__ __forceinline__ PackedCandidate<float> shuffle_xor(const PackedCandidate<float>& value, int mask) {
  return {__shfl_xor_sync(kFullWarp, value.packed, mask)};
}
__device__ __forceinline__ PackedCandidate<double> shuffle_xor(const PackedCandidate<double>& value, int mask) {
  return {__shfl_xor_sync(kFullWarp, value.stored_key, mask), __shfl_xor_sync(kFullWarp, value.stored_index, mask)};
}

// Replaces *best by a candidate that beats it. Float32: any number of threads per entry; float64: one per launch.
__device__ __forceinline__ void offer(PackedCandidate<float>* best, const PackedCandidate<float>& candidate) {
  // Most candidates lose, and a load is cheaper than an atomic.
  if (load_relaxed(&best->packed) < candidate.packed) atomic_max(&best->packed, candidate.packed);
}
__device__ __forceinline__ void offer(PackedCandidate<double>* best, const PackedCandidate<double>& candidate) {
  if (candidate.beats(*best)) *best = candidate;
}

// The best candidate offered so far.
__device__ __forceinline__ PackedCandidate<float> load(const PackedCandidate<float>* best) {
  return {load_relaxed(&best->packed)};
}
__device__ __forceinline__ PackedCandidate<double> load(const PackedCandidate<double>* best) { return *best; }

// Reduces n values over the lanes that differ in the bits `masks`. Each mask halves the number of values per lane: a
// lane ends with the results of the values from *first on, at the front of the array.
template <int n, int mask, int... masks, class acc_t>
__device__ __forceinline__ void reduce_to_lanes(PackedCandidate<acc_t>* value, int* first) {
  const bool upper = (lane_index() & mask) != 0;
#pragma unroll
  for (int i = 0; i < n / 2; ++i) {
    const PackedCandidate<acc_t> kept = upper ? value[i + n / 2] : value[i], sent = upper ? value[i] : value[i + n / 2];
    const PackedCandidate<acc_t> got = shuffle_xor(sent, mask);
    value[i] = got.beats(kept) ? got : kept;
  }
  *first += upper ? n / 2 : 0;
  if constexpr (sizeof...(masks) > 0) reduce_to_lanes<n / 2, masks...>(value, first);
}

}  // namespace hardmine::cuda
