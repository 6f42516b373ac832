// Shared by the ops on given triplets: checked inputs, measures, and the gradient of the embeddings.
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

// Writes positive and negative [T]. Returns true if all rows are finite.
template <class T>
bool measure_triplets(const PairMeasure& measure, const TripletInputs& in, T* positive, T* negative) {
  return measure_triplets<T>(measure, data<T>(in.embeddings), in.rows, in.depth, in.list(), TorchThreadPool(), positive,
                             negative);
}

// target [count] += extra, the gradient of an output, if given.
template <class T>
void add_gradient(const char* name, const std::optional<Tensor>& extra, int64_t count, ScalarType type, T* target) {
  if (!extra) return;
  check_vector(name, *extra, count, type);
  const Tensor values = contiguous_array(*extra);
  const T* from = data<T>(values);
  for (int64_t i = 0; i < count; ++i) target[i] += from[i];
}

// The gradient of the embeddings, in their dtype, from the gradients of the measures [T]. NaN if some row is not
// finite.
Tensor triplet_gradient_tensor(const PairMeasure& measure, const TripletInputs& in, const Tensor& embeddings,
                               const Tensor& d_positive, const Tensor& d_negative);

}  // namespace hardmine::cpu
