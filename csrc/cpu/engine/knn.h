// Exact knn neighbors.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "core/candidate.h"
#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Finds the k most similar rows of refs for each query, most similar first, ties by the lowest index. Writes similarity
// and index [queries, k], padded with NaN and -1. If refs is null, the queries are compared with each other, and with
// themselves unless exclude_self. O(depth) memory per row and O(k) per query. The result does not depend on the number
// of threads.
template <class T>
void knn(Similarity kind, const Matrix<T>& queries, const Matrix<T>* refs, int64_t depth, int64_t k, bool exclude_self,
         const ThreadPool& pool, T* similarity, int64_t* index);

template <class T>
using VisitNeighbors = std::function<void(int64_t query, std::span<const Neighbor<T>> neighbors)>;

// Calls visit for each query with its k most similar other queries, in no particular order, which saves the time to
// sort them. Only those whose keys reach floor_key [queries] are among them. Calls are concurrent if the pool has
// several threads.
template <class T>
void knn_unordered(Similarity kind, const Matrix<T>& queries, int64_t depth, int64_t k, const T* floor_key,
                   const ThreadPool& pool, const VisitNeighbors<T>& visit);

// The lists of some rows of a set: keys and row numbers in the whole set, best first, padded with NaN and -1; [rows, k]
// each.
template <class T>
struct NeighborLists {
  T* key;
  int64_t* number;
};

// Which pairs a block of a set holds, the row numbers of its rows in the whole set, which ascend, and the lists so far.
template <class T>
struct KnnBlock {
  // Without refs and if > 0, a multiple of kBlockStep: only the pairs of one of the first rows with one of the others.
  int64_t first_rows;
  int64_t first_number, other_number;  // of row 0, and of row first_rows; those that follow have the next numbers
  NeighborLists<T> first, others;      // of the first queries and of the others; with refs, of no query and of all

  int64_t number_of(int64_t row) const {
    return row < first_rows ? first_number + row : other_number + row - first_rows;
  }
  NeighborLists<T> list_of(int64_t row, int64_t k) const {
    const NeighborLists<T>& lists = row < first_rows ? first : others;
    const int64_t offset = (row < first_rows ? row : row - first_rows) * k;
    return {lists.key + offset, lists.number + offset};
  }
};

// Merges the block's pairs into the lists. With refs, row numbers are those of the refs. A candidate that is in a list
// already is not listed twice. The order is total, so the lists do not depend on how a set is split into blocks.
template <class T>
void knn_block(Similarity kind, const Matrix<T>& queries, const Matrix<T>* refs, int64_t depth, int64_t k,
               bool exclude_self, const KnnBlock<T>& block, const ThreadPool& pool);

}  // namespace hardmine::cpu
