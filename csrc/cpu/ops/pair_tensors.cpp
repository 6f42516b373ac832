#include "cpu/ops/pair_tensors.h"

#include "cpu/engine/pair_gradient.h"

namespace hardmine::cpu {
namespace {

// Checks that all elements of an int64 tensor lie in [min, rows). Returns the tensor, contiguous.
Tensor checked_indices(const char* name, const Tensor& t, int64_t min, int64_t rows) {
  check(t.is_cpu() && t.scalar_type() == ScalarType::Long, std::string(name) + " must be an int64 CPU tensor");
  const Tensor indices = contiguous_array(t);
  const int64_t* index = data<int64_t>(indices);
  const int64_t count = indices.numel();
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] >= min && index[i] < rows) continue;
    fail(std::string(name) + " must lie in [" + std::to_string(min) + ", " + std::to_string(rows) + "), got " +
         std::to_string(index[i]));
  }
  return indices;
}

// [B, 2] from two [B].
template <class T>
Tensor interleaved(const Tensor& positive, const Tensor& negative) {
  const Tensor p = contiguous_array(positive), n = contiguous_array(negative);
  const int64_t count = p.size(0);
  const Tensor pairs = new_array(p, {count, 2}, p.scalar_type());
  const T *from_p = data<T>(p), *from_n = data<T>(n);
  T* out = mutable_data<T>(pairs);
  for (int64_t i = 0; i < count; ++i) {
    out[2 * i] = from_p[i];
    out[2 * i + 1] = from_n[i];
  }
  return pairs;
}

}  // namespace

std::tuple<Tensor, Tensor> pair_gradient_tensors(const PairMeasure& measure, const PairTensors& pairs,
                                                 const Tensor& embeddings, const std::optional<Tensor>& ref_embeddings,
                                                 const NeededGradients& needed, NonfiniteRows nonfinite) {
  check_matrix("embeddings", embeddings, -1);
  const int64_t count = embeddings.size(0), depth = embeddings.size(1);
  if (ref_embeddings) check_matrix("ref_embeddings", *ref_embeddings, depth);
  const int64_t ref_count = ref_embeddings ? ref_embeddings->size(0) : 0;
  const ScalarType type = compute_type(embeddings);
  const int64_t entries = pairs.left ? pairs.left->numel() : count;
  check_pairs("the indices of pairs", pairs.right, entries, ScalarType::Long);
  check_pairs("the gradients of pairs", pairs.gradient, entries, type);
  check(pairs.gradient.size(1) == pairs.right.size(1), "pairs must have as many gradients as indices");
  const Tensor right = checked_indices("the indices of pairs", pairs.right, -1, ref_embeddings ? ref_count : count);
  std::optional<Tensor> left;
  if (pairs.left) left = checked_indices("the anchors of pairs", *pairs.left, 0, count);

  const Tensor x = as_array(embeddings, type);
  const Tensor refs = ref_embeddings ? as_array(*ref_embeddings, type) : x;
  const Tensor gradient = contiguous_array(pairs.gradient);
  const auto new_gradient = [&](bool need, int64_t rows) {
    return need ? new_array(x, {rows, depth}, type) : new_array(x, {0}, type);
  };
  const Tensor grad_x = new_gradient(needed.rows, count),
               grad_refs = new_gradient(needed.columns && ref_embeddings, ref_count);
  dispatch(type, [&]<class T>() {
    const TorchThreadPool pool;
    const bool propagate_nan = nonfinite == NonfiniteRows::kMakeGradientsNan &&
                               !(all_finite(data<T>(x), count, depth, pool) &&
                                 (!ref_embeddings || all_finite(data<T>(refs), ref_count, depth, pool)));
    if (propagate_nan) {
      for (const Tensor& grad : {grad_x, grad_refs}) {
        Tensor target = grad;
        torch::stable::fill_(target, std::numeric_limits<double>::quiet_NaN());
      }
      return;
    }
    const MatrixPair<T> rows{.x = data<T>(x),
                             .count = count,
                             .refs = ref_embeddings ? data<T>(refs) : nullptr,
                             .ref_count = ref_count,
                             .depth = depth};
    const PairList<T> list{.left = left ? data<int64_t>(*left) : nullptr,
                           .right = data<int64_t>(right),
                           .gradient = data<T>(gradient),
                           .count = entries,
                           .partners = right.size(1)};
    pair_gradient<T>(measure, rows, list, pool, needed.rows ? mutable_data<T>(grad_x) : nullptr,
                     needed.columns && ref_embeddings ? mutable_data<T>(grad_refs) : nullptr);
  });
  return {as_array(grad_x, embeddings.scalar_type()), as_array(grad_refs, embeddings.scalar_type())};
}

PairTensors selected_pair_tensors(const Tensor& positive_index, const Tensor& negative_index,
                                  const Tensor& grad_positive, const Tensor& grad_negative, int64_t count,
                                  ScalarType type) {
  check_vector("positive_index", positive_index, count, ScalarType::Long);
  check_vector("negative_index", negative_index, count, ScalarType::Long);
  check_vector("grad_positive", grad_positive, count, type);
  check_vector("grad_negative", grad_negative, count, type);
  return {std::nullopt, interleaved<int64_t>(positive_index, negative_index),
          dispatch(type, [&]<class T>() { return interleaved<T>(grad_positive, grad_negative); })};
}

}  // namespace hardmine::cpu
