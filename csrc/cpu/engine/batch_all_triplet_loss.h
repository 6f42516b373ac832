// The batch-all triplet loss, torch-free.
#pragma once

#include "core/losses/batch_all.h"
#include "cpu/engine/select_triplets.h"

namespace hardmine::cpu {

template <class T>
struct BatchAllResult {
  T loss;
  int64_t active, total;
  bool finite;  // every row and its norm; if not, the rest is not to be used
};

// Also writes the loss's gradient [count, depth], unless null: it is known up to the share of a triplet when all have
// been seen, so there is no backward pass. O(count depth) memory.
template <class T>
BatchAllResult<T> batch_all(const BatchAllRule& rule, const LabeledMatrix<T>& rows, int64_t depth,
                            const MarginTable<T>& table, const ThreadPool& pool, T* grad);

}  // namespace hardmine::cpu
