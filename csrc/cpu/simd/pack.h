// Packing of sorted rows into the layouts of the tile engine and of the gradient.
#pragma once

#include <cstdint>

#include "core/candidate.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Transposes kLanes vectors of kLanes lanes: each round interleaves the first half of the vectors with the second.
template <class T>
inline __attribute__((always_inline)) void transpose(Vec<T>* rows) {
  using V = Vec<T>;
  constexpr int64_t kHalf = V::kLanes / 2;
  V next[V::kLanes];
#pragma GCC unroll 4
  for (int64_t round = 1; round < V::kLanes; round *= 2) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < kHalf; ++i) {
      next[2 * i] = V::interleave_low(rows[i], rows[i + kHalf]);
      next[2 * i + 1] = V::interleave_high(rows[i], rows[i + kHalf]);
    }
#pragma GCC unroll 16
    for (int64_t i = 0; i < V::kLanes; ++i) rows[i] = next[i];
  }
}

template <int64_t kGroup, class T>
void pack_groups(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t count, int64_t begin,
                 int64_t end, T* out) {
  using V = Vec<T>;
  for (int64_t first = begin; first < end; first += kGroup) {
    for (int64_t r = 0; r < kGroup; r += V::kLanes) {
      constexpr int64_t kRest = kGroup % V::kLanes;
      const bool whole = r + V::kLanes <= kGroup;
      const int64_t lanes = whole ? V::kLanes : kRest, left = count - first - r, rows = left < lanes ? left : lanes;
      T* packed = out + first * depth + r;
      for (int64_t k = 0; k < depth; k += V::kLanes) {
        const int64_t width = depth - k < V::kLanes ? depth - k : V::kLanes;
        V block[V::kLanes];
        for (int64_t i = 0; i < V::kLanes; ++i) {
          block[i] = V::zero();
          if (i >= rows) continue;
          const int64_t source = permutation[first + r + i];
          const T* row = x + source * depth + k;
          T padded[V::kLanes];
          if (width < V::kLanes) {
            for (int64_t c = 0; c < V::kLanes; ++c) padded[c] = c < width ? row[c] : T(0);
            row = padded;
          }
          block[i] = norm ? V::load(row) / V::broadcast(norm + source) : V::load(row);
        }
        transpose(block);
        for (int64_t c = 0; c < width; ++c) {
          T* to = packed + (k + c) * kGroup;
          // The lanes past a group of fewer rows than lanes are those of the next element, which is stored next.
          if (whole || (kGroup < V::kLanes && k + c + 1 < depth)) {
            block[c].store(to);
          } else {
            T lane[V::kLanes];
            block[c].store(lane);
            __builtin_memcpy(to, lane, kRest * sizeof(T));
          }
        }
      }
    }
  }
}

// `group` is kMicroTileRows or the number of columns of a panel.
template <class T>
void pack(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t count, int64_t begin, int64_t end,
          int64_t group, T* out) {
  if (group == kMicroTileRows) {
    pack_groups<kMicroTileRows>(x, depth, permutation, norm, count, begin, end, out);
  } else {
    pack_groups<kColumnVecs * Vec<T>::kLanes>(x, depth, permutation, norm, count, begin, end, out);
  }
}

template <class T>
void pack_depth(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t padded, int64_t begin,
                int64_t end, T* out) {
  using V = Vec<T>;
  constexpr int64_t kWidth = kColumnVecs * V::kLanes;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t source = permutation[r];
    const T* row = x + source * depth;
    for (int64_t k = 0; k < depth; k += kWidth) {
      T* packed = out + k * padded + r * kWidth;
      const int64_t left = depth - k;
      if (left >= kWidth) {
        for (int64_t c = 0; c < kWidth; c += V::kLanes)
          (norm ? V::load(row + k + c) / V::broadcast(norm + source) : V::load(row + k + c)).store(packed + c);
        continue;
      }
      for (int64_t c = 0; c < kWidth; ++c) packed[c] = c >= left ? T(0) : norm ? row[k + c] / norm[source] : row[k + c];
    }
  }
}

}  // namespace hardmine::cpu::HARDMINE_TARGET
