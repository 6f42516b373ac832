// Selection of a positive and a negative for every anchor, torch-free.
#pragma once

#include "core/random.h"
#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Selects among `refs`, or among the anchors themselves (never the anchor) where `refs` is null. Returns true if every
// row and its norm are finite. O(N depth) memory; the result does not depend on the number of workers. Throws
// std::bad_alloc.
template <class T>
bool select_triplets(const SelectionRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const RandomNumbers& random, const ThreadPool& pool, const SelectionOut<T>& out);

}  // namespace hardmine::cpu
