// Log-sum-exps over the pairs of each anchor, torch-free: as cpu/engine/logsumexp.h, but with the temperature in device
// memory, [1], so that the host does not wait for it.
#pragma once

#include "core/losses/logsumexp.h"
#include "cuda/kernels/pair_gradient.h"
#include "cuda/kernels/strip_gradient.h"

namespace hardmine::cuda {

// Compares with `refs`; if null, with the anchors themselves. All results are NaN if some row, or its norm, is not
// finite. O(N depth) memory. `bound`: as in cpu/engine/logsumexp.h, with or without refs.
template <class MmaPolicy, class Scalar>
void logsumexp(const LogSumExpRule& rule, const double* temperature, const LabeledMatrix<Scalar>& anchors,
               const LabeledMatrix<Scalar>* refs, int64_t depth, const LogSumExpOut<typename MmaPolicy::acc_t>& out,
               Workspace& workspace, const Stream& stream, const typename MmaPolicy::acc_t* bound = nullptr);

// All gradients are NaN if some row, or its norm, is not finite. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void logsumexp_gradient(const LogSumExpRule& rule, const double* temperature, const LabeledMatrix<Scalar>& anchors,
                        const LabeledMatrix<Scalar>* refs, int64_t depth,
                        const LogSumExpSaved<typename MmaPolicy::acc_t>& saved, const GradientOut<Scalar>& out,
                        Workspace& workspace, const Stream& stream, int64_t strip_weights = kStripWeights);

}  // namespace hardmine::cuda
