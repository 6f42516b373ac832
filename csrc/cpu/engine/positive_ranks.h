// The ranks of a query's positives among all its candidates, which ranking metrics follow from.
#pragma once

#include <cstdint>

#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/buffer.h"
#include "cpu/engine/pass_part.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// The ranks of query q are rank[first[q]], ..., rank[first[q + 1] - 1], ascending; 1 is the best candidate.
struct PositiveRanks {
  WorkspaceVector<int64_t> first;  // [queries + 1]
  WorkspaceVector<int64_t> rank;
};

// Ranks the candidates of each query, the rows of refs or the other queries if `refs` is null, by similarity, ties by
// the lowest index. NaN similarities are no candidates. O(depth) memory per row and O(1) per positive. The result does
// not depend on the number of threads. In a part only the negatives of its pairs move ranks down: the ranks of all
// parts, less those without negatives (1, 2, ... per query) for all but one, add up to the ranks. Throws std::bad_alloc
// and Cancelled.
template <class T>
PositiveRanks positive_ranks(Similarity kind, const LabeledMatrix<T>& queries, const LabeledMatrix<T>* refs,
                             int64_t depth, const PassPart& part, const ThreadPool& pool);

}  // namespace hardmine::cpu
