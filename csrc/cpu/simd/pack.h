// Packing of sorted rows into the layouts of the tile engine and of the gradient.
#pragma once

#include <cstdint>

#include "core/candidate.h"

namespace hardmine::cpu::HARDMINE_TARGET {

// Rows are first normalized into a small block, where they are read along depth, and then interleaved.
template <class T>
void pack(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t count, int64_t begin, int64_t end,
          int64_t group, T* out) {
  using V = Vec<T>;
  constexpr int64_t kBlock = 16, kMaxGroup = 32;
  alignas(64) T block[kMaxGroup][kBlock];
  for (int64_t first = begin; first < end; first += group) {
    T* packed = out + first * depth;
    const int64_t rows = count - first < group ? count - first : group;
    for (int64_t k = 0; k < depth; k += kBlock) {
      const int64_t width = depth - k < kBlock ? depth - k : kBlock;
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t source = permutation[first + r];
        const T* row = x + source * depth + k;
        if (!norm) {
          for (int64_t c = 0; c < width; ++c) block[r][c] = row[c];
        } else if (width == kBlock) {
          const V divisor = V::broadcast(norm + source);
          for (int64_t c = 0; c < kBlock; c += V::kLanes) (V::load(row + c) / divisor).store(block[r] + c);
        } else {
          for (int64_t c = 0; c < width; ++c) block[r][c] = row[c] / norm[source];
        }
      }
      for (int64_t r = rows; r < group; ++r)
        for (int64_t c = 0; c < kBlock; ++c) block[r][c] = T(0);
      for (int64_t c = 0; c < width; ++c)
        for (int64_t r = 0; r < group; ++r) packed[(k + c) * group + r] = block[r][c];
    }
  }
}

template <class T>
void pack_depth(const T* x, int64_t depth, const Index* permutation, const T* norm, int64_t padded, int64_t begin,
                int64_t end, T* out) {
  const int64_t width = kColumnVecs * Vec<T>::kLanes;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t source = permutation[r];
    const T* row = x + source * depth;
    for (int64_t k = 0; k < depth; k += width) {
      T* packed = out + k * padded + r * width;
      const int64_t count = depth - k < width ? depth - k : width;
      for (int64_t c = 0; c < count; ++c) packed[c] = row[k + c];
      if (norm)
        for (int64_t c = 0; c < count; ++c) packed[c] /= norm[source];
      for (int64_t c = count; c < width; ++c) packed[c] = T(0);
    }
  }
}

}  // namespace hardmine::cpu::HARDMINE_TARGET
