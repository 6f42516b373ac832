// The tuplet losses, torch-free.
#pragma once

#include "core/losses/tuplet_terms.h"
#include "cpu/engine/select_triplets.h"

namespace hardmine::cpu {

// What forward gives, one entry an anchor, and backward takes.
template <class T>
struct TupletOut {
  T* value;                // the anchor's term; 0 for an anchor that does not count
  T* level;                // log-sum-exp over its negatives; -infinity without any
  T* shift;                // its two parts, from which backward loses no digits: level = shift / temperature + log(sum)
  T* sum;                  // 0 without any
  T* slope;                // d value / d level
  T* positive_similarity;  // 0: none, or all
  int64_t* positive_index;  // -1: none, or all
  int64_t* positive_count;  // positives that the term is the mean over; 0 for an anchor that does not count
};

// Returns true if every row and its norm are finite.
template <class T>
bool tuplet_forward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                    int64_t depth, const ThreadPool& pool, const TupletOut<T>& out);

// What forward gave, and the gradient that arrives at each anchor's term.
template <class T>
struct TupletSaved {
  const T* gradient;
  const T* shift;
  const T* sum;
  const T* slope;
  const int64_t* positive_index;
  const int64_t* positive_count;
};

// Writes grad_x [count, depth] and grad_refs, where not null. Returns false, and leaves them as they are, if some row
// or its norm is not finite.
template <class T>
bool tuplet_backward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const TupletSaved<T>& saved, const ThreadPool& pool, T* grad_x, T* grad_refs);

}  // namespace hardmine::cpu
