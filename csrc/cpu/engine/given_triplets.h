// Triplets given by the user: the measures of their pairs (a, p) and (a, n).
#pragma once

#include <cstdint>
#include <string>

#include "core/similarity.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// The error message for the first invalid triplet, or an empty string. Valid triplets satisfy is_triplet.
std::string first_invalid_triplet(const TripletList& triplets, int64_t row_count);

// The measures of the pairs (a, p) and (a, n) of valid triplets of rows of x [row_count, depth]. Returns true if every
// row of x, used or not, and its norm are finite.
template <class T>
bool measure_triplets(const PairMeasure& measure, const T* x, int64_t row_count, int64_t depth,
                      const TripletList& triplets, const ThreadPool& pool, T* positive, T* negative);

}  // namespace hardmine::cpu
