// The losses of two log-sum-exps per anchor (core/losses/two_sums_loss.h), and their gradients in one call.
#pragma once

#include "core/losses/two_sums_loss.h"
#include "core/views.h"
#include "cpu/engine/kept_scores.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// A gradient that is not needed is null.
template <class T>
struct TwoSumsOut {
  T* loss;       // [1]
  T* grad_x;     // [anchors, depth]
  T* grad_refs;  // [refs, depth]
};

// If refs is null, the anchors are compared with each other. Returns false, without writing, if some row or norm is not
// finite.
template <class T>
bool two_sums_loss(const TwoSumsRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                   int64_t depth, const ThreadPool& pool, const TwoSumsOut<T>& out,
                   int64_t max_kept_bytes = kMaxKeptBytes);

}  // namespace hardmine::cpu
