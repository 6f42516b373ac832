// Selection of a positive and a negative for every anchor, torch-free.
#pragma once

#include <cstdint>

#include "../core/selection.h"
#include "workers.h"

namespace hardmine::cpu {

// Embeddings and labels as the user gave them.
template <class T>
struct LabelledRows {
  const T* x;            // [count, depth]
  const int64_t* label;  // [count]
  int64_t count;
};

// One entry an anchor; index -1 and similarity NaN where there is no candidate.
template <class T>
struct SelectionOut {
  int64_t* positive_index;
  int64_t* negative_index;
  T* positive_similarity;
  T* negative_similarity;
};

// The uniform numbers in [0, 1), one an anchor, that a random selection picks by (core/random_pick.h); null for a
// selection that is not random.
struct RandomNumbers {
  const double* positive = nullptr;
  const double* negative = nullptr;
};

// Selects among `refs`, or among the anchors themselves (never the anchor) where `refs` is null. Returns true if every
// row and its norm are finite. O(N depth) memory; the result does not depend on the number of workers. Throws
// std::bad_alloc.
template <class T>
bool select_triplets(const SelectionRule& rule, const LabelledRows<T>& anchors, const LabelledRows<T>* refs,
                     int64_t depth, const RandomNumbers& random, const Workers& workers, const SelectionOut<T>& out);

}  // namespace hardmine::cpu
