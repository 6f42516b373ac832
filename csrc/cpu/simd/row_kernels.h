// Norms and distances of rows, and the sums of the backward pass.
#pragma once

#include <cmath>
#include <cstdint>

#include "cpu/simd/kernel_table.h"
#include "cpu/simd/row_kernels_table.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Every SIMD target keeps this many partial sums, and adds them up in the same order, so that all targets agree.
inline constexpr int64_t kPartials = 16;

template <class T>
struct Partials {
  using V = Vec<T>;
  static constexpr int64_t kVecs = kPartials / V::kLanes;
  V sum[kVecs];

  Partials() {
    for (int64_t v = 0; v < kVecs; ++v) sum[v] = V::zero();
  }
  T total(const T* tail) const {
    T part[kPartials];
    for (int64_t v = 0; v < kVecs; ++v) sum[v].store(part + v * V::kLanes);
    for (int64_t p = 0; p < kPartials; ++p) part[p] += tail[p];
    for (int64_t half = kPartials / 2; half > 0; half /= 2)
      for (int64_t p = 0; p < half; ++p) part[p] += part[p + half];
    return part[0];
  }
};

// The sum of a term over `depth`: vec_term(k, acc) returns acc plus the terms of a vector, tail_term(k) a single term.
template <class T, class VecTerm, class TailTerm>
inline T reduce(int64_t depth, const VecTerm& vec_term, const TailTerm& tail_term) {
  using V = Vec<T>;
  Partials<T> partials;
  T tail[kPartials] = {};
  const int64_t whole = depth - depth % kPartials;
  for (int64_t k = 0; k < whole; k += kPartials)
    for (int64_t v = 0; v < Partials<T>::kVecs; ++v) partials.sum[v] = vec_term(k + v * V::kLanes, partials.sum[v]);
  for (int64_t k = whole; k < depth; ++k) tail[k - whole] = tail_term(k);
  return partials.total(tail);
}

template <class T>
T dot(const T* x, const T* y, int64_t depth) {
  using V = Vec<T>;
  return reduce<T>(
      depth, [&](int64_t k, V acc) { return fma(V::load(x + k), V::load(y + k), acc); },
      [&](int64_t k) { return x[k] * y[k]; });
}

template <class T>
T squared_distance(const T* x, const T* y, int64_t depth) {
  using V = Vec<T>;
  const auto vec_term = [&](int64_t k, V acc) {
    const V difference = V::load(x + k) - V::load(y + k);
    return fma(difference, difference, acc);
  };
  const auto tail_term = [&](int64_t k) {
    const T difference = x[k] - y[k];
    return difference * difference;
  };
  return reduce<T>(depth, vec_term, tail_term);
}

// Equal to squared_distance to the bit. `stride` is a multiple of kPartials.
template <class T>
void squared_distances(const T* query, const T* x, int64_t stride, const uint32_t* rows, int64_t count, T* out) {
  using V = Vec<T>;
  constexpr int64_t kAhead = 3, kCacheLine = 64 / sizeof(T), kMaxLines = 8;
  const int64_t lines = stride / kCacheLine < kMaxLines ? stride / kCacheLine : kMaxLines;
  for (int64_t i = 0; i < count; ++i) {
    // Rows are scattered over memory, so most of the speed comes from prefetching.
    if (i + kAhead < count)
      for (int64_t l = 0; l < lines; ++l) __builtin_prefetch(x + rows[i + kAhead] * stride + l * kCacheLine);
    const T* row = x + rows[i] * stride;
    Partials<T> partials;
    for (int64_t k = 0; k < stride; k += kPartials)
      for (int64_t v = 0; v < Partials<T>::kVecs; ++v) {
        const int64_t at = k + v * V::kLanes;
        const V difference = V::load(query + at) - V::load(row + at);
        partials.sum[v] = fma(difference, difference, partials.sum[v]);
      }
    if constexpr (requires { V::partials_sum(partials.sum); }) {
      out[i] = V::partials_sum(partials.sum);
    } else {
      const T no_tail[kPartials] = {};
      out[i] = partials.total(no_tail);
    }
  }
}

template <class T>
T distance(const T* x, const T* y, int64_t depth) {
  return std::sqrt(squared_distance(x, y, depth));
}

// The squared norms of kRows rows, equal to dot(row, row, depth) to the bit. Rows do not wait for each other's sums.
template <int64_t kRows, class T>
inline void squared_norms(const T* x, int64_t depth, T* out) {
  using V = Vec<T>;
  Partials<T> partials[kRows];
  const int64_t whole = depth - depth % kPartials;
  for (int64_t k = 0; k < whole; k += kPartials)
    for (int64_t v = 0; v < Partials<T>::kVecs; ++v)
#pragma GCC unroll 4
      for (int64_t r = 0; r < kRows; ++r) {
        const V value = V::load(x + r * depth + k + v * V::kLanes);
        partials[r].sum[v] = fma(value, value, partials[r].sum[v]);
      }
  for (int64_t r = 0; r < kRows; ++r) {
    T tail[kPartials] = {};
    for (int64_t k = whole; k < depth; ++k) tail[k - whole] = x[r * depth + k] * x[r * depth + k];
    out[r] = partials[r].total(tail);
  }
}

template <class T>
bool row_norms(const T* x, int64_t count, int64_t depth, T* out) {
  constexpr int64_t kTogether = 4;
  int64_t i = 0;
  for (; i + kTogether <= count; i += kTogether) squared_norms<kTogether>(x + i * depth, depth, out + i);
  for (; i < count; ++i) squared_norms<1>(x + i * depth, depth, out + i);
  bool finite = true;
  for (i = 0; i < count; ++i) {
    out[i] = std::sqrt(out[i]);
    finite &= out[i] - out[i] == T(0);
  }
  return finite;
}

template <class T>
void weighted_sum(const T* const* rows, const T* weight, int64_t count, int64_t depth, T* out) {
  using V = Vec<T>;
  constexpr int64_t kVecs = 8;  // sums in registers
  int64_t k = 0;
  for (; k + kVecs * V::kLanes <= depth; k += kVecs * V::kLanes) {
    V sum[kVecs];
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVecs; ++v) sum[v] = V::zero();
    for (int64_t i = 0; i < count; ++i) {
      const V w = V::broadcast(weight + i);
#pragma GCC unroll 8
      for (int64_t v = 0; v < kVecs; ++v) sum[v] = fma(w, V::load(rows[i] + k + v * V::kLanes), sum[v]);
    }
#pragma GCC unroll 8
    for (int64_t v = 0; v < kVecs; ++v) sum[v].store(out + k + v * V::kLanes);
  }
  for (; k + V::kLanes <= depth; k += V::kLanes) {
    V sum = V::zero();
    for (int64_t i = 0; i < count; ++i) sum = fma(V::broadcast(weight + i), V::load(rows[i] + k), sum);
    sum.store(out + k);
  }
  for (; k < depth; ++k) {
    out[k] = T(0);
    for (int64_t i = 0; i < count; ++i) out[k] = std::fma(weight[i], rows[i][k], out[k]);
  }
}

template <class T>
void add_scaled_difference(T* acc, T weight, const T* y, const T* x, int64_t depth) {
  using V = Vec<T>;
  const V w = V::broadcast(&weight);
  const int64_t whole = depth - depth % V::kLanes;
  for (int64_t k = 0; k < whole; k += V::kLanes)
    fma(w, V::load(y + k) - V::load(x + k), V::load(acc + k)).store(acc + k);
  for (int64_t k = whole; k < depth; ++k) acc[k] = std::fma(weight, y[k] - x[k], acc[k]);
}

// With u = x / |x|, d(u) = (I - u u^T) d(x) / |x|. So a gradient g of u becomes the gradient (g - u (u . g)) / |x| of
// x. CUDA's `projected` divides each x by |x| and does not fuse, so its bits differ.
template <class T>
void project(T* acc, const T* x, T norm, T radial, int64_t depth) {
  using V = Vec<T>;
  const T unit_radial = -radial / norm;
  const V w = V::broadcast(&unit_radial), n = V::broadcast(&norm);
  const int64_t whole = depth - depth % V::kLanes;
  for (int64_t k = 0; k < whole; k += V::kLanes) (fma(w, V::load(x + k), V::load(acc + k)) / n).store(acc + k);
  for (int64_t k = whole; k < depth; ++k) acc[k] = std::fma(unit_radial, x[k], acc[k]) / norm;
}

HARDMINE_PROVIDE_KERNELS(RowKernels, .row_norms = row_norms<T>, .weighted_sum = weighted_sum<T>,
                         .add_scaled_difference = add_scaled_difference<T>, .distance = distance<T>,
                         .squared_distance = squared_distance<T>, .dot = dot<T>,
                         .squared_distances = squared_distances<T>, .project = project<T>)

}  // namespace hardmine::cpu::HARDMINE_TARGET
