#include "cpu/ops/given_triplets.h"

namespace hardmine::cpu {

Tensor triplet_gradient_tensor(const PairMeasure& measure, const TripletInputs& in, const Tensor& embeddings,
                               const Tensor& d_positive, const Tensor& d_negative) {
  PairTensors pairs{new_array(in.triplets, {in.count}, ScalarType::Long),
                    new_array(in.triplets, {in.count, 2}, ScalarType::Long),
                    new_array(d_positive, {in.count, 2}, in.type)};
  const int64_t* triplet = data<int64_t>(in.triplets);
  int64_t *left = mutable_data<int64_t>(*pairs.left), *right = mutable_data<int64_t>(pairs.right);
  dispatch(in.type, [&](auto zero) {
    using T = decltype(zero);
    const T *from_positive = data<T>(d_positive), *from_negative = data<T>(d_negative);
    T* gradient = mutable_data<T>(pairs.gradient);
    for (int64_t t = 0; t < in.count; ++t) {
      left[t] = triplet[3 * t];
      right[2 * t] = triplet[3 * t + 1];
      right[2 * t + 1] = triplet[3 * t + 2];
      gradient[2 * t] = from_positive[t];
      gradient[2 * t + 1] = from_negative[t];
    }
  });
  return std::get<0>(pair_gradient_tensors(measure, pairs, embeddings, std::nullopt, true, false, true));
}

namespace {

std::tuple<Tensor, Tensor, Tensor> indexed_triplet_loss_cpu(Tensor embeddings, Tensor triplets, int64_t similarity,
                                                            int64_t term, double temperature, double margin, double lam,
                                                            int64_t reduction) {
  const IndexedLossRule rule = indexed_loss_rule(similarity, term, temperature, margin, lam, reduction);
  const TripletInputs in(embeddings, triplets);
  const Tensor positive = new_array(in.embeddings, {in.count}, in.type),
               negative = new_array(in.embeddings, {in.count}, in.type);
  const Tensor loss = rule.reduction == Reduction::kNone ? new_array(in.embeddings, {in.count}, in.type)
                                                         : new_array(in.embeddings, {}, in.type);
  dispatch(in.type, [&](auto zero) {
    using T = decltype(zero);
    T *s_ap = mutable_data<T>(positive), *s_an = mutable_data<T>(negative), *out = mutable_data<T>(loss);
    if (measure_triplets<T>(rule.measure, in, s_ap, s_an)) {
      reduce_loss<T>(rule.term, rule.reduction, {nullptr, nullptr, s_ap, s_an, in.count}, out);
    } else {  // divergence is never hidden
      std::fill_n(out, loss.numel(), std::numeric_limits<T>::quiet_NaN());
    }
  });
  return {loss, positive, negative};
}

Tensor indexed_triplet_loss_backward_cpu(Tensor grad_loss, std::optional<Tensor> grad_positive,
                                         std::optional<Tensor> grad_negative, Tensor embeddings, Tensor triplets,
                                         Tensor positive_similarity, Tensor negative_similarity, int64_t similarity,
                                         int64_t term, double temperature, double margin, double lam,
                                         int64_t reduction) {
  const IndexedLossRule rule = indexed_loss_rule(similarity, term, temperature, margin, lam, reduction);
  const TripletInputs in(embeddings, triplets);
  check_vector("positive_similarity", positive_similarity, in.count, in.type);
  check_vector("negative_similarity", negative_similarity, in.count, in.type);
  if (!grad_loss.is_cpu() || grad_loss.scalar_type() != in.type ||
      grad_loss.numel() != (rule.reduction == Reduction::kNone ? in.count : 1))
    check(false, "grad_loss must have the shape and dtype of the loss, got " + shape_of(grad_loss));
  const Tensor grad = contiguous_array(grad_loss), s_ap = contiguous_array(positive_similarity),
               s_an = contiguous_array(negative_similarity);
  const Tensor d_positive = new_array(s_ap, {in.count}, in.type), d_negative = new_array(s_ap, {in.count}, in.type);
  dispatch(in.type, [&](auto zero) {
    using T = decltype(zero);
    T *to_positive = mutable_data<T>(d_positive), *to_negative = mutable_data<T>(d_negative);
    reduce_loss_backward<T>(rule.term, rule.reduction, {nullptr, nullptr, data<T>(s_ap), data<T>(s_an), in.count},
                            data<T>(grad), to_positive, to_negative);
    add_gradient("grad_positive", grad_positive, in.count, in.type, to_positive);
    add_gradient("grad_negative", grad_negative, in.count, in.type, to_negative);
  });
  return triplet_gradient_tensor(rule.measure, in, embeddings, d_positive, d_negative);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&indexed_triplet_loss_cpu>(m, "indexed_triplet_loss");
  implement<&indexed_triplet_loss_backward_cpu>(m, "indexed_triplet_loss_backward");
}

}  // namespace hardmine::cpu
