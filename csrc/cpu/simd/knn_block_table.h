// Nearest neighbors: the best candidates of each row of a block, and of each column if the pass is symmetric.
#pragma once

#include "cpu/simd/operands.h"

namespace hardmine::cpu {

// One reservoir of candidates per row, which holds the k best candidates so far, and others. A full reservoir is
// compacted to its k best. Later candidates must beat the k-th of these, `worst`.
template <class T>
struct Reservoirs {
  int64_t k;
  int64_t capacity;         // > k
  Neighbor<T>* candidates;  // [rows][capacity]
  int32_t* size;
  T* worst_key;  // -infinity until the first compaction
  Index* worst_index;
  void (*compact)(const Reservoirs& reservoirs, int64_t row);
};

template <class T>
struct KnnKernels {
  // Offers the block's pairs to their rows and, if the pass is symmetric, to their columns.
  void (*knn_block)(const PairwiseParams<T>& params, const Block& block, const Reservoirs<T>& reservoirs);
};

}  // namespace hardmine::cpu
