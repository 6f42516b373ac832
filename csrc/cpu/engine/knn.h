// Exact knn neighbors.
#pragma once

#include <cstdint>

#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Finds the k most similar rows of refs for each query, most similar first, ties by the lowest index. Writes similarity
// and index [queries, k], padded with NaN and -1. If refs is null, the queries are compared with each other, and with
// themselves unless exclude_self. Unless null, floor_key [queries] has a key per query that its results reach: a
// shorter list is padded too. O(depth) memory per row and O(k) per query. The result does not depend on the number of
// threads.
template <class T>
void knn(Similarity kind, const Matrix<T>& queries, const Matrix<T>* refs, int64_t depth, int64_t k, bool exclude_self,
         const ThreadPool& pool, T* similarity, int64_t* index, const T* floor_key = nullptr);

}  // namespace hardmine::cpu
