// The gradient of the embeddings from the gradients of the measures of listed pairs.
#pragma once

#include "core/similarity.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Writes grad_x [range.count, depth], for these rows of x, and, with refs, grad_refs [ref_count, depth]. A null output
// is not computed. Each output row gathers its pairs in the order of the list, first those that have it on the left,
// then those on the right. The result thus does not depend on the number of threads. O(rows depth + pairs) memory.
template <class T>
void pair_gradient(const PairMeasure& measure, const MatrixPair<T>& rows, const PairList<T>& pairs,
                   const ThreadPool& pool, const RowRange& range, T* grad_x, T* grad_refs);

// For all rows of x.
template <class T>
void pair_gradient(const PairMeasure& measure, const MatrixPair<T>& rows, const PairList<T>& pairs,
                   const ThreadPool& pool, T* grad_x, T* grad_refs) {
  pair_gradient(measure, rows, pairs, pool, {.first = 0, .count = rows.count}, grad_x, grad_refs);
}

// True if every row of x [count, depth] and its norm are finite.
template <class T>
bool all_finite(const T* x, int64_t count, int64_t depth, const ThreadPool& pool);

}  // namespace hardmine::cpu
