// Matrices of embeddings as an op is given them.
#pragma once

#include <cstdint>

namespace hardmine {

template <class Scalar>
struct LabeledRows {
  const Scalar* x;       // [count, depth]
  const int64_t* label;  // [count]
  int64_t count;
};

// The matrices that pairs are made of. The first row of a pair is one of x, the second one of refs or, where those are
// null, of x as well.
template <class Scalar>
struct PairedRows {
  const Scalar* x;  // [count, depth]
  int64_t count;
  const Scalar* refs;  // [ref_count, depth]
  int64_t ref_count;
  int64_t depth;
};

}  // namespace hardmine
