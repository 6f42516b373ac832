// Views of the arrays that ops read and write, the same on every device.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace hardmine {

// True if the ids of two rows exclude their pair: it is no candidate.
HARDMINE_HD bool ids_exclude(int64_t a, int64_t b) { return a >= 0 && a == b; }

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

// Each entry is a left row with `partners` right rows, and the gradients of the measures of these pairs.
template <class T>
struct PairList {
  const int64_t* left;   // [count]; null: the left row of entry e is e
  const int64_t* right;  // [count, partners]; -1, or on CUDA any invalid row: no pair
  const T* gradient;     // [count, partners]
  int64_t count;
  int64_t partners;
};

// Rows [first, first + count).
struct RowRange {
  int64_t first, count;
};

// What rows that are not finite, or have such a norm, do to the gradients of listed pairs. A loss that they make NaN
// has NaN gradients.
enum class NonfiniteRows { kKeepGradients, kMakeGradientsNan };

// The operands of pairs whose gradients are needed: anchors or queries, and refs. If symmetric, the columns are the
// rows.
struct NeededGradients {
  bool rows, columns;
};

// The refs of a tuplet loss may be one block of several. A first pass per block then computes log-sum-exps only. Once
// those of all blocks are merged, a second pass per block computes the terms of its positives from them;
// TupletPositive is kAll.
template <class T>
struct TupletBlock {
  bool only_logsumexp = false;
  const T* shift = nullptr;  // [anchors], input: the log-sum-exp over all blocks; null except in a second pass
  const T* sum = nullptr;    // [anchors]
};

// The outputs of a tuplet loss, [anchors] each, except for the loss.
template <class T>
struct TupletOut {
  T* loss;                  // [1], or [anchors] without reduction; 0 for an invalid anchor
  T* logsumexp;             // over the anchor's negatives; -infinity without any
  T* shift;                 // logsumexp = shift / temperature + log(sum)
  T* sum;                   // 0 without a negative
  T* slope;                 // d term / d logsumexp
  T* positive_similarity;   // 0 without a positive, or with all
  int64_t* positive_index;  // -1 without a positive, or with all
  int64_t* positive_count;  // positives in the term's mean; 0 for an invalid anchor
  TupletBlock<T> block = {};
};

// The outputs of a tuplet loss that its backward pass reads, [anchors] each, and the gradient that arrives at the loss.
template <class T>
struct TupletSaved {
  const T* grad_loss;  // [1], or [anchors] without reduction
  const T* shift;
  const T* sum;
  const T* slope;
  const int64_t* positive_index;
  const int64_t* positive_count;
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
