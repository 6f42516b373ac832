// The batch-all triplet loss, torch-free.
#pragma once

#include "core/losses/batch_all.h"
#include "cuda/device/launch.h"
#include "cuda/device/workspace.h"
#include "cuda/kernels/select_triplets.h"

namespace hardmine::cuda {

template <class acc_t>
struct BatchAllOut {
  acc_t* loss;      // [1]
  int64_t* active;  // [1]: triplets with a value above 0
  int64_t* total;   // [1]
  acc_t* grad;      // [count, depth]: the gradient of the loss; null: not wanted
};

// What is in memory at a time; other than by default in tests only.
struct BatchAllChunks {
  int64_t strip_rows = 0;    // anchors, a multiple of kStripAlignment; 0: as many as O(count depth) memory allows
  int64_t positives = 1024;  // of an anchor, a power of two
};

// The gradient is known up to the share of a triplet when all have been seen, so there is no backward params. O(count
// depth) memory, or some MiB. The host does not wait for the device to look at the margins: a sample whose class has no
// row, and a margin between classes of the batch that is not finite, make the loss and the gradient NaN.
template <class MmaPolicy, class Scalar>
void batch_all(const BatchAllRule& rule, const LabeledRows<Scalar>& rows, int64_t depth,
               const MarginTable<typename MmaPolicy::acc_t>& table, const BatchAllOut<typename MmaPolicy::acc_t>& out,
               const BatchAllChunks& chunks, Workspace& workspace, const Stream& stream);

// grad * *factor.
template <class acc_t>
void scale_gradient(const acc_t* grad, const acc_t* factor, int64_t size, acc_t* out, const Stream& stream);

}  // namespace hardmine::cuda
