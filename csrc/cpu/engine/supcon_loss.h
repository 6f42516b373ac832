// The supervised contrastive loss and its gradients in one call.
#pragma once

#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/kept_scores.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

struct SupConRule {
  Similarity similarity;
  double temperature;
  bool is_mean;  // over the anchors that have a positive; else the sum
};

// A gradient that is not needed is null.
template <class T>
struct SupConOut {
  T* loss;       // [1]
  T* grad_x;     // [anchors, depth]
  T* grad_refs;  // [refs, depth]
};

// Per anchor, the log-sum-exp over all pairs minus the mean of its positives' s / temperature. If refs is null, the
// anchors are compared with each other. Returns false, without writing, if some row or norm is not finite.
template <class T>
bool supcon_loss(const SupConRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs, int64_t depth,
                 const ThreadPool& pool, const SupConOut<T>& out, int64_t max_kept_bytes = kMaxKeptBytes);

}  // namespace hardmine::cpu
