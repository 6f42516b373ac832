// Selection of a negative for every pair of an anchor and one of its positives.
#pragma once

#include <cstdint>

#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/buffer.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::cpu {

// The pairs of all anchors, ascending by anchor, then by positive. Negative -1 and similarity NaN: the pair has none.
template <class T>
struct PositivePairs {
  WorkspaceVector<int64_t> anchor, positive, negative;  // [pairs]
  WorkspaceVector<T> positive_similarity, negative_similarity;
};

// Lists all positives within the rule's duplicate_threshold, whatever rule.positive is, and selects a negative for each
// by rule.negative, which must not be random. Otherwise as select_triplets; O(N depth + pairs) memory.
template <class T>
bool select_all_positives(const SelectionRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                          int64_t depth, const ThreadPool& pool, PositivePairs<T>& out);

}  // namespace hardmine::cpu
