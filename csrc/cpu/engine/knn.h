// Exact nearest neighbors, torch-free.
#pragma once

#include <cstdint>

#include "core/selection.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Rows to find, or to find among.
template <class T>
struct Points {
  const T* x;  // [count, depth]
  int64_t count;
};

// The k most similar rows of refs for each query, most similar first, ties to the lowest index: similarity and index
// [queries, k], NaN and -1 beyond the candidates. Without refs (null) the queries are compared with each other, each
// with itself only if not exclude_self. O(depth) memory a row, and O(k) a query; the result does not depend on the
// number of workers.
template <class T>
void nearest(Similarity kind, const Points<T>& queries, const Points<T>* refs, int64_t depth, int64_t k,
             bool exclude_self, const ThreadPool& pool, T* similarity, int64_t* index);

}  // namespace hardmine::cpu
