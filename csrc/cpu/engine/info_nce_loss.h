// InfoNCE on pairs (core/losses/info_nce_loss.h).
#pragma once

#include "core/losses/info_nce_loss.h"
#include "core/views.h"
#include "cpu/engine/kept_scores.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// A gradient that is not needed is null.
template <class T>
struct InfoNceOut {
  T* loss;                   // [1]
  T* grad_query;             // [queries, depth]
  T* grad_key;               // [keys, depth]
  double* grad_temperature;  // [1]
};

// The first keys are those of the queries, in order; the others are negatives of all. Returns false, without writing,
// if some row or norm is not finite. O((queries + keys) depth) memory.
template <class T>
bool info_nce_loss(const InfoNceRule& rule, double temperature, const Matrix<T>& queries, const Matrix<T>& keys,
                   int64_t depth, const ThreadPool& pool, const InfoNceOut<T>& out,
                   int64_t max_kept_bytes = kMaxKeptBytes);

}  // namespace hardmine::cpu
