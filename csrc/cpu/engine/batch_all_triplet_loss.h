// The batch-all triplet loss.
#pragma once

#include "core/losses/batch_all.h"
#include "cpu/engine/select_triplets.h"

namespace hardmine::cpu {

template <class T>
struct BatchAllResult {
  T loss;
  int64_t active, total;
  bool finite;  // all rows and norms; if false, the other members are meaningless
};

// Positives and negatives are refs, or other anchors if refs is null. Also writes the gradients [count, depth] of the
// loss, unless null. They are known up to a factor when all triplets have been visited, so there is no backward pass.
// O((anchors + refs) depth) memory.
template <class T>
BatchAllResult<T> batch_all(const BatchAllRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                            int64_t depth, const MarginTable<T>& table, const ThreadPool& pool, T* grad_x,
                            T* grad_refs);

}  // namespace hardmine::cpu
