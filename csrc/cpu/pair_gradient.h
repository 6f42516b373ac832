// The gradient of functions of the selected similarities, with respect to the embeddings; torch-free.
#pragma once

#include <cstdint>

#include "../core/selection.h"
#include "workers.h"

namespace hardmine::cpu {

// One selected pair an anchor: the row it was paired with (-1: none) and the gradient that arrives at their similarity.
template <class T>
struct PairGradients {
  const int64_t* index;  // [anchors]
  const T* gradient;     // [anchors]
};

// Writes grad_x [count, depth] and, where refs are given, grad_refs [ref_count, depth]; a null output is not computed.
// Without refs (null) the pairs are among the rows of x. Every output row gathers its contributions in a fixed order
// (its own pairs, then those of the anchors that selected it, ascending), so that the result does not depend on the
// number of workers.
template <class T>
void pair_gradient(Similarity similarity, const T* x, int64_t count, const T* refs, int64_t ref_count, int64_t depth,
                   const PairGradients<T>& positive, const PairGradients<T>& negative, const Workers& workers,
                   T* grad_x, T* grad_refs);

// True if every row of x [count, depth], and its norm, is finite.
template <class T>
bool all_finite(const T* x, int64_t count, int64_t depth, const Workers& workers);

}  // namespace hardmine::cpu
