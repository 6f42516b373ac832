// Log-sum-exps over the pairs of each anchor (core/losses/logsumexp.h).
#pragma once

#include "core/losses/logsumexp.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Returns true if all rows and norms are finite. `bound` [anchors]: an anchor has only the pairs whose signed
// similarity (PairLogit) is above its bound, and there are refs; null: all pairs.
template <class T>
bool logsumexp_forward(const LogSumExpRule& rule, double temperature, const LabeledMatrix<T>& anchors,
                       const LabeledMatrix<T>* refs, int64_t depth, const ThreadPool& pool, const LogSumExpOut<T>& out,
                       const T* bound = nullptr);

// Writes grad_x [count, depth] and grad_refs [ref_count, depth], unless null. Returns false, without writing, if some
// row or norm is not finite.
template <class T>
bool logsumexp_backward(const LogSumExpRule& rule, double temperature, const LabeledMatrix<T>& anchors,
                        const LabeledMatrix<T>* refs, int64_t depth, const LogSumExpSaved<T>& saved,
                        const ThreadPool& pool, T* grad_x, T* grad_refs);

}  // namespace hardmine::cpu
