// A candidate and its key as kernels exchange and store them.
#pragma once

#include "core/candidate.h"
#include "cuda/device/device.h"

namespace hardmine::cuda {

template <class Number>
struct Ranked;

// One integer, so that the best of candidates from any number of blocks is an atomic maximum.
template <>
struct Ranked<float> {
  uint64_t packed;

  static HARDMINE_HD Ranked of(float key, Index index) { return {packed_candidate(key, index)}; }
  HARDMINE_HD float key() const { return key_of_packed(packed); }
  HARDMINE_HD Index index() const { return index_of_packed(packed); }
  HARDMINE_HD bool beats(const Ranked& other) const { return packed > other.packed; }
};

template <>
struct Ranked<double> {
  double number;
  Index row;

  static HARDMINE_HD Ranked of(double key, Index index) { return {key, index}; }
  HARDMINE_HD double key() const { return number; }
  HARDMINE_HD Index index() const { return row; }
  HARDMINE_HD bool beats(const Ranked& other) const { return hardmine::beats(number, row, other.number, other.row); }
};

__device__ __forceinline__ Ranked<float> shuffle_xor(const Ranked<float>& value, int mask) {
  return {__shfl_xor_sync(kFullWarp, value.packed, mask)};
}
__device__ __forceinline__ Ranked<double> shuffle_xor(const Ranked<double>& value, int mask) {
  return {__shfl_xor_sync(kFullWarp, value.number, mask), __shfl_xor_sync(kFullWarp, value.row, mask)};
}

// Replaces *best by a candidate that beats it: one thread a float64 entry in a launch, any number of float32.
__device__ __forceinline__ void offer(Ranked<float>* best, const Ranked<float>& candidate) {
  // Most candidates lose, and a load is cheaper than an atomic operation.
  if (load_relaxed(&best->packed) < candidate.packed) atomic_max(&best->packed, candidate.packed);
}
__device__ __forceinline__ void offer(Ranked<double>* best, const Ranked<double>& candidate) {
  if (candidate.beats(*best)) *best = candidate;
}

// What blocks have offered so far.
__device__ __forceinline__ Ranked<float> load(const Ranked<float>* best) { return {load_relaxed(&best->packed)}; }
__device__ __forceinline__ Ranked<double> load(const Ranked<double>* best) { return *best; }

// The best of each of n values over the lanes that differ in the bits `masks`, by exchanging halves: a lane ends with n
// over 2^|masks| of them, from *first on, at the front of the array.
template <int n, int mask, int... masks, class Number>
__device__ __forceinline__ void reduce_to_lanes(Ranked<Number>* value, int* first) {
  const bool upper = (lane_index() & mask) != 0;
#pragma unroll
  for (int i = 0; i < n / 2; ++i) {
    const Ranked<Number> kept = upper ? value[i + n / 2] : value[i], sent = upper ? value[i] : value[i + n / 2];
    const Ranked<Number> got = shuffle_xor(sent, mask);
    value[i] = got.beats(kept) ? got : kept;
  }
  *first += upper ? n / 2 : 0;
  if constexpr (sizeof...(masks) > 0) reduce_to_lanes<n / 2, masks...>(value, first);
}

}  // namespace hardmine::cuda
