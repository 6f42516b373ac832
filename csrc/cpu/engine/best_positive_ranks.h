// The rank of each query's most similar positive among all its candidates, by cosine similarity. Recall at k follows
// from it.
#pragma once

#include <cstdint>

#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/pass_part.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

inline constexpr int64_t kMaxCountedCandidates = 64;

// Writes better [queries]: the number of candidates that are more similar to a query than its most similar positive, at
// most `limit` <= kMaxCountedCandidates; `limit` for a query without a positive. Candidates are the rows of refs, or
// the other queries if `refs` is null. Ties go to the lowest index, NaN similarities are no candidates. In a part only
// the negatives of its pairs count. O(depth + limit) memory per row. Throws std::bad_alloc and Cancelled.
template <class T>
void best_positive_ranks(const LabeledMatrix<T>& queries, const LabeledMatrix<T>* refs, int64_t depth, int64_t limit,
                         const PassPart& part, const ThreadPool& pool, int64_t* better);

}  // namespace hardmine::cpu
