// The tuplet losses.
#pragma once

#include "core/losses/tuplet_terms.h"
#include "cpu/engine/select_triplets.h"

namespace hardmine::cpu {

// The outputs of forward, which backward takes; one entry per anchor.
template <class T>
struct TupletOut {
  T* value;                 // the anchor's term; 0 for an invalid anchor
  T* logsumexp;             // over the negatives; -infinity without any
  T* shift;                 // logsumexp = shift / temperature + log(sum)
  T* sum;                   // 0 without a negative
  T* slope;                 // d value / d logsumexp
  T* positive_similarity;   // 0 without a positive, or with all
  int64_t* positive_index;  // -1 without a positive, or with all
  int64_t* positive_count;  // positives in the term's mean; 0 for an invalid anchor
};

// Returns true if all rows and norms are finite.
template <class T>
bool tuplet_forward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                    int64_t depth, const ThreadPool& pool, const TupletOut<T>& out);

// The outputs of forward, and the gradient of each anchor's term.
template <class T>
struct TupletSaved {
  const T* gradient;
  const T* shift;
  const T* sum;
  const T* slope;
  const int64_t* positive_index;
  const int64_t* positive_count;
};

// Writes grad_x [count, depth] and grad_refs [ref_count, depth], unless null. Returns false, without writing, if some
// row or norm is not finite.
template <class T>
bool tuplet_backward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const TupletSaved<T>& saved, const ThreadPool& pool, T* grad_x, T* grad_refs);

}  // namespace hardmine::cpu
