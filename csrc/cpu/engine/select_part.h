// A part of a selection among all rows, for ranks that hold the same rows and share the work.
#pragma once

#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/pass_blocks.h"

namespace hardmine::cpu {

// Selects among the pairs of a part, without refs and random rules. Writes out [words][selections][count], words as in
// core/candidate_words.h, for part_selections(rule, positives) selections in their order. `positives` [words][count]:
// the merged positives, which bound semi-hard negatives; else null.
template <class T>
void select_part(const SelectionRule& rule, const LabeledMatrix<T>& rows, int64_t depth, const PassPart& part,
                 const int64_t* positives, const ThreadPool& pool, int64_t* out);

// The selection from the merged words of all parts: [words][2 or 3][count], positives, negatives, and fallbacks of
// semi-hard negatives.
template <class T>
void merged_selection(const SelectionRule& rule, const int64_t* words, int64_t count, const SelectionOut<T>& out);

}  // namespace hardmine::cpu
