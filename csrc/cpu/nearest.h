// Exact nearest neighbours, torch-free.
#pragma once

#include <cstdint>

#include "../core/selection.h"
#include "workers.h"

namespace hardmine::cpu {

inline constexpr int64_t kMostNeighbours = 1024;

// The k most similar rows of refs [ref_count, depth] for each of x [count, depth], most similar first, ties to the
// lowest index: similarity and index [count, k], NaN and -1 beyond the candidates. Without refs (null) the rows of x
// are compared with each other, each with itself only if not exclude_self. O((count + ref_count) depth + count k)
// memory; the result does not depend on the number of workers.
template <class T>
void nearest(Similarity kind, const T* x, int64_t count, const T* refs, int64_t ref_count, int64_t depth, int64_t k,
             bool exclude_self, const Workers& workers, T* similarity, int64_t* index);

}  // namespace hardmine::cpu
