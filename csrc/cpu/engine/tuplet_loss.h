// The tuplet losses.
#pragma once

#include "core/losses/tuplet_terms.h"
#include "cpu/engine/select_triplets.h"

namespace hardmine::cpu {

// Writes out.loss without reduction. Returns true if all rows and norms are finite.
template <class T>
bool tuplet_forward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                    int64_t depth, const ThreadPool& pool, const TupletOut<T>& out);

// Writes grad_x [count, depth] and grad_refs [ref_count, depth], unless null. saved.grad_loss is without reduction: the
// gradient of each anchor's term. Returns false, without writing, if some row or norm is not finite.
template <class T>
bool tuplet_backward(const TupletRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const TupletSaved<T>& saved, const ThreadPool& pool, T* grad_x, T* grad_refs);

}  // namespace hardmine::cpu
