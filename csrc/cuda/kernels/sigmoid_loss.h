// The sigmoid loss, torch-free: as cpu/engine/sigmoid_loss.h, but with scale and bias in device memory, [2], so that
// the host does not wait for them.
#pragma once

#include "core/losses/sigmoid_loss.h"
#include "cuda/kernels/pair_gradient.h"
#include "cuda/kernels/strip_gradient.h"

namespace hardmine::cuda {

// All results are NaN if some row, or its norm, is not finite. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void sigmoid_loss(const SigmoidRule& rule, const double* logit, const LabeledMatrix<Scalar>& queries,
                  const LabeledMatrix<Scalar>& keys, int64_t depth, const SigmoidOut<typename MmaPolicy::acc_t>& out,
                  Workspace& workspace, const Stream& stream);

// All gradients are NaN if some row, or its norm, is not finite. grad_value [queries]. O(N depth) memory.
template <class MmaPolicy, class Scalar>
void sigmoid_loss_gradient(const SigmoidRule& rule, const double* logit, const LabeledMatrix<Scalar>& queries,
                           const LabeledMatrix<Scalar>& keys, int64_t depth,
                           const typename MmaPolicy::acc_t* grad_value, const GradientOut<Scalar>& out,
                           Workspace& workspace, const Stream& stream, int64_t strip_weights = kStripWeights);

}  // namespace hardmine::cuda
