// The tuplet losses.
#pragma once

#include "core/losses/tuplet_terms.h"
#include "cpu/engine/kept_scores.h"
#include "cpu/engine/pass_part.h"
#include "cpu/engine/select_triplets.h"

namespace hardmine::cpu {

// Writes out.loss without reduction. Returns true if all rows and norms are finite.
template <class T>
bool tuplet_forward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                    int64_t depth, const ThreadPool& pool, const TupletOut<T>& out);

// For ranks that hold the same rows and share the work. `words` [words][tuplet_selections(rule)][count]: the merged
// words of positives and hardest negatives (core/candidate_words.h); null if there are none.

// Writes sum [count]: per anchor, the exponentials among the pairs of a part. The sums of all parts add up to the sum.
template <class T>
void tuplet_part(const TupletRule& rule, const LabeledMatrix<T>& anchors, int64_t depth, const int64_t* words,
                 const PassPart& part, const ThreadPool& pool, double* sum);

// As tuplet_forward, from the sums of all parts.
template <class T>
bool tuplet_of_parts(const TupletRule& rule, const LabeledMatrix<T>& anchors, int64_t depth, const int64_t* words,
                     const double* sum, const ThreadPool& pool, const TupletOut<T>& out);

// Writes what the pairs of a part add to grad_x [count, depth] and grad_refs [ref_count, depth], unless null.
// saved.grad_loss is without reduction: the gradient of each anchor's term. Returns false, without writing, if some row
// or norm is not finite.
template <class T>
bool tuplet_backward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const TupletSaved<T>& saved, const PassPart& part, const ThreadPool& pool,
                     T* grad_x, T* grad_refs);

// As tuplet_forward, and then the gradients of the reduced loss, as tuplet_backward has them from grad_loss 1. Returns
// false, without gradients, if some row or norm is not finite.
template <class T>
bool tuplet_with_gradients(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                           int64_t depth, const ThreadPool& pool, const TupletOut<T>& out, T* grad_x, T* grad_refs,
                           int64_t max_kept_bytes = kMaxKeptBytes);

}  // namespace hardmine::cpu
