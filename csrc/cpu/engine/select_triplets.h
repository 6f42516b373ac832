// Selection of a positive and a negative for every anchor.
#pragma once

#include "core/random.h"
#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Selects among the rows of `refs`, or among the other anchors if `refs` is null. Returns true if all rows and norms
// are finite. O(N depth) memory. The result does not depend on the number of threads. Throws std::bad_alloc and
// Cancelled.
template <class T>
bool select_triplets(const SelectionRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const RandomNumbers& random, const ThreadPool& pool, const SelectionOut<T>& out);

}  // namespace hardmine::cpu
