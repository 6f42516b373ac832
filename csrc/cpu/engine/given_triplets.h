// Triplets that the user gives as rows (a, p, n) of the embeddings: the measures of their pairs; torch-free.
#pragma once

#include <cstdint>
#include <string>

#include "core/similarity.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// What is wrong with the first bad triplet, or nothing: indices must lie in [0, row_count), and be three different
// ones.
std::string first_invalid_triplet(const TripletList& triplets, int64_t row_count);

// The measures of the pairs (a, p) and (a, n) of faultless triplets of rows of x [row_count, depth]. Returns true if
// every row of x, in a triplet or not, and its norm are finite.
template <class T>
bool measure_triplets(const PairMeasure& measure, const T* x, int64_t row_count, int64_t depth,
                      const TripletList& triplets, const ThreadPool& pool, T* positive, T* negative);

}  // namespace hardmine::cpu
