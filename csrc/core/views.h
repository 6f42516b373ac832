// What an op is given: matrices of embeddings, and triplets of their rows.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hardmine {

template <class Scalar>
struct LabeledMatrix {
  const Scalar* x;       // [count, depth]
  const int64_t* label;  // [count]
  int64_t count;
};

// The matrices that pairs are made of. The first row of a pair is one of x, the second one of refs or, where those are
// null, of x as well.
template <class Scalar>
struct MatrixPair {
  const Scalar* x;  // [count, depth]
  int64_t count;
  const Scalar* refs;  // [ref_count, depth]
  int64_t ref_count;
  int64_t depth;
};

// Triplets that the user gives as rows (anchor, positive, negative) of the embeddings.
struct TripletList {
  const int64_t* rows;  // [count, 3]
  int64_t count;
};

// True if `row` [3] is a triplet: three different ones of `row_count` rows.
HARDMINE_HD bool is_triplet(const int64_t* row, int64_t row_count) {
  for (int k = 0; k < 3; ++k)
    if (row[k] < 0 || row[k] >= row_count) return false;
  return row[0] != row[1] && row[0] != row[2] && row[1] != row[2];
}

}  // namespace hardmine
