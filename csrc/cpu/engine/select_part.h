// A part of a selection among all rows, for ranks that hold the same rows and share the work.
#pragma once

#include "core/selection.h"
#include "core/views.h"
#include "cpu/engine/pass_blocks.h"

namespace hardmine::cpu {

// Selects among the pairs of a part, without refs and random rules. Writes out [words][selections][count], words as in
// core/candidate_words.h: the part_selections(rule), or only the positives unless need_negatives. If negatives are
// semi-hard and needed, positives are those among all pairs.
template <class T>
void select_part(const SelectionRule& rule, const LabeledMatrix<T>& rows, int64_t depth, const PassPart& part,
                 bool need_negatives, const ThreadPool& pool, int64_t* out);

// The selection from the merged words of all parts: [words][part_selections(rule)][count].
template <class T>
void merged_selection(const SelectionRule& rule, const int64_t* words, int64_t count, const SelectionOut<T>& out);

}  // namespace hardmine::cpu
