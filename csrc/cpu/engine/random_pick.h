// Random selection: a uniform choice among each anchor's candidates, by given uniform numbers (core/random.h).
#pragma once

#include "cpu/engine/selection_pass.h"

namespace hardmine::cpu {

// One operand of the pairs: the rows as given, and sorted.
template <class T>
struct PickOperand {
  const T* x;     // [count, depth]
  const T* norm;  // [count]; null if rows are not normalized
  const SortedRows<T>& sorted;
};

template <class T>
struct RandomPick {
  const double* uniform;  // [anchors], by row of the input
  PairKind kind;          // kSameClass or kOtherClass
  bool symmetric;         // columns are the rows, and a row is not its own candidate
  bool euclidean, hyperbolic;
  // Candidates depend on more than labels and `excluded`: keys above `upper` and NaN keys are none. Both operands are
  // packed.
  bool by_similarity;
  T upper;
  const ExcludedPairs* excluded;  // null: none
  int64_t depth;
};

// Picks a candidate for each sorted row. Returns its index, or kBelowRange without a candidate, and its key: the
// similarity, or the negative score of a distance.
//
// If labels and ids determine the candidates, a pick costs some bisections and the similarity of one pair, equal to the
// bit to that of a tile. Otherwise the tiles that may hold candidates are computed.
template <class T>
SelectionResult<T> pick_random(const RandomPick<T>& pick, const PickOperand<T>& rows, const PickOperand<T>& columns,
                               const ThreadPool& pool);

}  // namespace hardmine::cpu
