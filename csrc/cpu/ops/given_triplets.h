// What the ops on given triplets share: triplets as a checked array, their measures, and the way back.
#pragma once

#include "cpu/engine/given_triplets.h"
#include "cpu/ops/torch_bridge.h"

namespace hardmine::cpu {

struct TripletInputs {
  Tensor embeddings, triplets;  // contiguous, of the compute type and int64
  ScalarType type;
  int64_t rows, depth, count;

  TripletInputs(const Tensor& x, const Tensor& t) : type(compute_type(x)) {
    check_matrix("embeddings", x, -1);
    if (!t.is_cpu() || t.scalar_type() != ScalarType::Long || t.dim() != 2 || t.size(1) != 3)
      check(false, "triplets must be an int64 CPU tensor [T, 3], got " + shape_of(t));
    embeddings = as_array(x, type);
    triplets = contiguous_array(t);
    rows = x.size(0);
    depth = x.size(1);
    count = t.size(0);
    const std::string error = first_invalid_triplet(list(), rows);
    check(error.empty(), error);
  }
  TripletList list() const { return {data<int64_t>(triplets), count}; }
};

// positive, negative: [T] arrays of the compute type, to be filled. Returns whether every row is finite.
template <class T>
bool measure_triplets(const PairMeasure& measure, const TripletInputs& in, T* positive, T* negative) {
  return measure_triplets<T>(measure, data<T>(in.embeddings), in.rows, in.depth, in.list(), TorchThreadPool(), positive,
                             negative);
}

// Adds the gradient that arrives at an output [count] to what the loss gave; where there is none, nothing.
template <class T>
void add_gradient(const char* name, const std::optional<Tensor>& extra, int64_t count, ScalarType type, T* target) {
  if (!extra) return;
  check_vector(name, *extra, count, type);
  const Tensor values = contiguous_array(*extra);
  const T* from = data<T>(values);
  for (int64_t i = 0; i < count; ++i) target[i] += from[i];
}

// The gradient of the embeddings, in their own type, from gradients of the measures, [T] arrays. NaN where a row is not
// finite.
Tensor triplet_gradient_tensor(const PairMeasure& measure, const TripletInputs& in, const Tensor& embeddings,
                               const Tensor& d_positive, const Tensor& d_negative);

}  // namespace hardmine::cpu
