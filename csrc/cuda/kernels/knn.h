// Exact nearest neighbors, torch-free.
#pragma once

#include "core/selection.h"
#include "core/views.h"
#include "cuda/device/launch.h"

namespace hardmine::cuda {

template <class acc_t>
struct KnnOut {
  acc_t* similarity;  // [queries, k]
  int64_t* index;     // [queries, k]
};

// The k <= kMaxNeighbors most similar rows of `refs` per query, most similar first, ties to the lowest index; NaN and
// -1 beyond the candidates. Without `refs` (null) the queries are compared with each other, and with themselves unless
// exclude_self. O(depth) memory per row and O(k) per query.
template <class MmaPolicy, class Scalar>
void knn(Similarity kind, const Matrix<Scalar>& queries, const Matrix<Scalar>* refs, int64_t depth, int64_t k,
         bool exclude_self, const KnnOut<typename MmaPolicy::acc_t>& out, Workspace& workspace, const Stream& stream);

}  // namespace hardmine::cuda
