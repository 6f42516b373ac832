// The gradient of functions of the measures of listed pairs, with respect to the embeddings; torch-free.
#pragma once

#include "core/similarity.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Entries of one first row and some partners of it, and the gradient that arrives at the measure of each such pair.
template <class T>
struct PairList {
  const int64_t* left;   // [count]; null: entry e is of row e
  const int64_t* right;  // [count, partners], -1: no pair
  const T* gradient;     // [count, partners]
  int64_t count;
  int64_t partners;
};

// Writes grad_x [count, depth] and, where refs are given, grad_refs [ref_count, depth]; a null output is not computed.
// Every output row gathers its contributions in a fixed order (the pairs that it is first of, in the order of the list,
// then those that it is second of, likewise), so that the result does not depend on the number of workers.
// O(rows depth + pairs) memory.
template <class T>
void pair_gradient(const PairMeasure& measure, const MatrixPair<T>& rows, const PairList<T>& pairs,
                   const ThreadPool& pool, T* grad_x, T* grad_refs);

// True if every row of x [count, depth], and its norm, is finite.
template <class T>
bool all_finite(const T* x, int64_t count, int64_t depth, const ThreadPool& pool);

}  // namespace hardmine::cpu
