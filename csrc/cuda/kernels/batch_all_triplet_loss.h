// The batch-all triplet loss, torch-free.
#pragma once

#include "core/losses/batch_all.h"
#include "cuda/device/launch.h"
#include "cuda/kernels/select_triplets.h"

namespace hardmine::cuda {

template <class acc_t>
struct BatchAllOut {
  acc_t* loss;      // [1]
  int64_t* active;  // [1]: triplets with a value > 0
  int64_t* total;   // [1]
  // The gradients of the loss, [count, depth]; null: not needed
  acc_t* grad_x;
  acc_t* grad_refs;
};

// Chunk sizes. Only tests override the defaults.
struct BatchAllChunks {
  int64_t strip_rows =
      0;  // anchors per strip, a multiple of kStripAlignment; 0: as many as O(count depth) memory allows
  int64_t positives = 1024;  // of an anchor per chunk, a power of two
};

// Positives and negatives are refs, or other rows if refs is null. The forward pass computes the gradients as well: up
// to the loss's weight they are known when all triplets were seen. O((rows + refs) depth) memory, or a few MiB. The
// host does not wait for the device to check the margins. An anchor or a negative whose class has no row, or a
// non-finite margin between their classes, makes the loss and the gradients NaN.
template <class MmaPolicy, class Scalar>
void batch_all(const BatchAllRule& rule, const LabeledMatrix<Scalar>& rows, const LabeledMatrix<Scalar>* refs,
               int64_t depth, const MarginTable<typename MmaPolicy::acc_t>& table,
               const BatchAllOut<typename MmaPolicy::acc_t>& out, const BatchAllChunks& chunks, Workspace& workspace,
               const Stream& stream);

// out = grad * *factor.
template <class acc_t>
void scale_gradient(const acc_t* grad, const acc_t* factor, int64_t size, acc_t* out, const Stream& stream);

}  // namespace hardmine::cuda
