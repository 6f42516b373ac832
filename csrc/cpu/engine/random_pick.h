// Random selection: one of every anchor's candidates, uniformly, by given scores (core/random.h).
#pragma once

#include "cpu/engine/selection_pass.h"

namespace hardmine::cpu {

// One side of the pairs: its rows as the user gave them, and sorted.
template <class T>
struct PickOperand {
  const T* x;     // [count, depth]
  const T* norm;  // [count]; null unless rows are divided by their norms
  const SortedRows<T>& sorted;
};

template <class T>
struct RandomPick {
  const double* uniform;  // [anchors], in the user's order
  bool same_class;        // candidates have the anchor's label, or another
  bool symmetric;         // columns are the rows, and no row is its own candidate
  bool euclidean;
  // Labels alone do not tell the candidates: those with a key above `upper`, or of NaN, are none. Both operands are
  // packed.
  bool by_similarity;
  T upper;
  int64_t depth;
};

// Picks a candidate for every sorted row: its index, kBelowRange where there is none, and its key, which is the
// similarity, or for the Euclidean one the negative squared distance.
//
// Where labels tell the candidates, a pick costs a bisection and the similarity of one pair, to the same bits as in a
// tile. Where similarities decide, the tiles that may hold candidates are computed.
template <class T>
SelectionResult<T> pick_random(const RandomPick<T>& pick, const PickOperand<T>& rows, const PickOperand<T>& columns,
                               const ThreadPool& pool);

}  // namespace hardmine::cpu
