#include "cpu/ops/pair_tensors.h"

#include "cpu/engine/pair_gradient.h"

namespace hardmine::cpu {
namespace {

// The lowest index is 0, or -1 where that stands for no pair.
void check_indices(const Tensor& indices, int64_t lowest, int64_t rows) {
  const int64_t* index = data<int64_t>(indices);
  const int64_t count = indices.numel();
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] >= lowest && index[i] < rows) continue;
    fail("the indices of pairs must lie in [" + std::to_string(lowest) + ", " + std::to_string(rows) + "), got " +
         std::to_string(index[i]));
  }
}

// [B, 2] from two [B].
template <class T>
Tensor interleaved(const Tensor& positive, const Tensor& negative) {
  const int64_t count = positive.size(0);
  const Tensor pairs = new_array(positive, {count, 2}, positive.scalar_type());
  const T *from_positive = data<T>(positive), *from_negative = data<T>(negative);
  T* out = mutable_data<T>(pairs);
  for (int64_t i = 0; i < count; ++i) {
    out[2 * i] = from_positive[i];
    out[2 * i + 1] = from_negative[i];
  }
  return pairs;
}

}  // namespace

std::tuple<Tensor, Tensor> pair_gradient_tensors(const PairMeasure& measure, const PairTensors& pairs,
                                                 const BackwardInputs& inputs, NonfiniteRows nonfinite,
                                                 ScalarType type) {
  dispatch(inputs.type, [&]<class T>() {
    const TorchThreadPool pool;
    const MatrixPair<T> rows = inputs.matrices<T>();
    check_indices(pairs.index, -1, inputs.ref_embeddings ? rows.ref_count : rows.count);
    if (pairs.left) check_indices(*pairs.left, 0, rows.count);
    const bool makes_nan = nonfinite == NonfiniteRows::kMakeGradientsNan &&
                           !(all_finite(rows.x, rows.count, rows.depth, pool) &&
                             (!inputs.ref_embeddings || all_finite(rows.refs, rows.ref_count, rows.depth, pool)));
    if (makes_nan) return inputs.gradients.fill_nan<T>();
    pair_gradient<T>(measure, rows, pairs.list<T>(), pool, inputs.gradients.x_rows, inputs.gradients.x_data<T>(),
                     inputs.gradients.refs_data<T>());
  });
  return inputs.gradients.as(type);
}

PairTensors selected_pair_tensors(const SelectionTensors& selected) {
  const Tensor gradient = selected.positive.scalar_type() == ScalarType::Double
                              ? interleaved<double>(selected.positive, selected.negative)
                              : interleaved<float>(selected.positive, selected.negative);
  return {interleaved<int64_t>(selected.positive_index, selected.negative_index), gradient, selected.anchor_index};
}

}  // namespace hardmine::cpu
