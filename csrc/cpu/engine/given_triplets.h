// Losses of triplets given by the user.
#pragma once

#include <cstdint>
#include <string>

#include "core/losses/given_triplets.h"
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

// The loss of valid triplets of rows of x [row_count, depth], NaN if some row or norm is not finite. Loss is one of
// core/losses/given_triplets.h.
template <class Loss, class T>
void loss_of_triplets(const PairMeasure& measure, const Loss& loss, const T* x, int64_t row_count, int64_t depth,
                      const TripletList& triplets, const ThreadPool& pool, const TripletLossOut<T>& out);

// Writes grad_x [row_count, depth], NaN if some row or norm is not finite. O(rows depth + triplets) memory.
template <class Loss, class T>
void loss_of_triplets_gradient(const PairMeasure& measure, const Loss& loss, const T* x, int64_t row_count,
                               int64_t depth, const TripletList& triplets, const TripletLossGradient<T>& gradient,
                               const ThreadPool& pool, T* grad_x);

}  // namespace hardmine::cpu
