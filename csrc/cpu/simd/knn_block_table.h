// Nearest neighbors: the best candidates of every row of a block, and of every column where the pass is symmetric.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// The best candidates of every row so far, each row's in a reservoir of its own: the k best of all that it has seen are
// among them. A full reservoir is compacted to its k best; the k-th of them, `worst`, is what a later candidate has to
// beat.
template <class T>
struct Neighbor {
  T key;
  Index index;
};
template <class T>
struct Reservoirs {
  int64_t k;
  int64_t capacity;        // > k
  Neighbor<T>* reservoir;  // [rows][capacity]
  int32_t* size;
  T* worst_key;  // -infinity until the first compaction
  Index* worst_index;
  void (*compact)(const Reservoirs& reservoirs, int64_t row);
};

template <class T>
struct KnnKernels {
  // Offers the block's pairs to their rows and, where the pass is symmetric, to their columns.
  void (*knn_block)(const PairwiseParams<T>& params, const Block& block, const Reservoirs<T>& reservoirs);
};

}  // namespace hardmine::cpu
