// Random selections (core/random_pick.h): a warp an anchor counts its candidates, and picks one of them.
#pragma once

#include "../core/random_pick.h"
#include "packed_rows.h"

namespace hardmine::cuda {

template <class Scalar>
struct PickSide {
  const Scalar* x;        // [count, depth]
  const int64_t* label;   // [count]
  const int32_t* finite;  // [row_groups(count)]
  int64_t count;
};

template <class Scalar>
struct PickPass {
  PickSide<Scalar> rows, columns;
  int64_t depth;
  bool symmetric;   // the columns are the rows: a row is no candidate of itself
  bool same_class;  // candidates are positives, or else negatives
  bool normalised;
  bool squares;  // the order of pairs is that of negative squared distances
};

// Writes the pick of every row to best [rows], its key being the order of the pair (core/selection.h). Candidates are
// those whose order is at most `upper`, and a number.
template <class Scalar, class Number>
void pick_random(const PickPass<Scalar>& pass, const double* number, Number upper, Ranked<Number>* best,
                 const Stream& stream);

}  // namespace hardmine::cuda
