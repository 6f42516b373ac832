// The sigmoid loss of queries and keys (core/losses/sigmoid_loss.h). Pairs of equal labels are positives.
#pragma once

#include "core/losses/sigmoid_loss.h"
#include "core/views.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// Returns true if all rows and norms are finite.
template <class T>
bool sigmoid_forward(const SigmoidRule& rule, const Logit<double>& logit, const LabeledMatrix<T>& queries,
                     const LabeledMatrix<T>& keys, int64_t depth, const ThreadPool& pool, const SigmoidOut<T>& out);

// grad_value [queries]. Writes grad_queries [count, depth] and grad_keys, unless null. Returns false, without writing,
// if some row or norm is not finite.
template <class T>
bool sigmoid_backward(const SigmoidRule& rule, const Logit<double>& logit, const LabeledMatrix<T>& queries,
                      const LabeledMatrix<T>& keys, int64_t depth, const T* grad_value, const ThreadPool& pool,
                      T* grad_queries, T* grad_keys);

// A gradient that is not needed is null.
template <class T>
struct SigmoidGradients {
  T* loss;             // [1]
  T* grad_query;       // [queries, depth]
  T* grad_key;         // [keys, depth]
  double* grad_logit;  // [2]: of scale and bias
};

// The mean or the sum over queries, whose keys have their row numbers, and its gradients: one pass, since no pair's
// derivative depends on others. Returns false, without writing, if some row or norm is not finite.
template <class T>
bool sigmoid_with_gradients(const SigmoidRule& rule, const Logit<double>& logit, bool is_mean, const Matrix<T>& queries,
                            const Matrix<T>& keys, int64_t depth, const ThreadPool& pool,
                            const SigmoidGradients<T>& out);

}  // namespace hardmine::cpu
