// Views of an op's inputs: matrices of embeddings, and triplets of their rows.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hardmine {

// Rows of equal ids >= 0 make no candidate pair.
template <class Scalar>
struct Matrix {
  const Scalar* x;  // [count, depth]
  int64_t count;
  const int64_t* id = nullptr;  // [count]; null: no row has an id
};

template <class Scalar>
struct LabeledMatrix {
  const Scalar* x;       // [count, depth]
  const int64_t* label;  // [count]
  int64_t count;
  const int64_t* id = nullptr;  // [count]; null: no row has an id
};

// The two matrices of a list of pairs. The left row of a pair is a row of x. The right row is a row of refs, or of x if
// refs is null.
template <class Scalar>
struct MatrixPair {
  const Scalar* x;  // [count, depth]
  int64_t count;
  const Scalar* refs;  // [ref_count, depth]
  int64_t ref_count;
  int64_t depth;
};

// Triplets given by the user: the rows of anchor, positive and negative in the embeddings.
struct TripletList {
  const int64_t* rows;  // [count, 3]
  int64_t count;
};

// True if `row` [3] holds three different indices in [0, row_count).
HARDMINE_HD bool is_triplet(const int64_t* row, int64_t row_count) {
  for (int k = 0; k < 3; ++k)
    if (row[k] < 0 || row[k] >= row_count) return false;
  return row[0] != row[1] && row[0] != row[2] && row[1] != row[2];
}

}  // namespace hardmine
