#include "core/losses/global_loss.h"

#include "cpu/ops/given_triplets.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor> global_loss_cpu(Tensor embeddings, Tensor triplets, int64_t similarity, double lam,
                                                   double threshold) {
  const GlobalLossRule options = global_loss_rule(similarity, lam, threshold);
  const TripletInputs in(embeddings, triplets);
  const Tensor positive = new_array(in.embeddings, {in.count}, in.type),
               negative = new_array(in.embeddings, {in.count}, in.type);
  const Tensor loss = new_array(in.embeddings, {}, in.type);
  dispatch(in.type, [&](auto zero) {
    using T = decltype(zero);
    T *d_ap = mutable_data<T>(positive), *d_an = mutable_data<T>(negative);
    const bool finite = measure_triplets<T>(options.measure, in, d_ap, d_an);
    for (T* d : {d_ap, d_an})
      for (int64_t t = 0; t < in.count; ++t) d[t] = global_distance(d[t]);
    *mutable_data<T>(loss) = finite ? global_loss<T>(options.rule, d_ap, d_an, in.count)
                                    : std::numeric_limits<T>::quiet_NaN();  // divergence is never hidden
  });
  return {loss, positive, negative};
}

Tensor global_loss_backward_cpu(Tensor grad_loss, std::optional<Tensor> grad_positive,
                                std::optional<Tensor> grad_negative, Tensor embeddings, Tensor triplets,
                                Tensor positive_distance, Tensor negative_distance, int64_t similarity, double lam,
                                double threshold) {
  const GlobalLossRule options = global_loss_rule(similarity, lam, threshold);
  const TripletInputs in(embeddings, triplets);
  check_vector("positive_distance", positive_distance, in.count, in.type);
  check_vector("negative_distance", negative_distance, in.count, in.type);
  if (!grad_loss.is_cpu() || grad_loss.scalar_type() != in.type || grad_loss.numel() != 1)
    check(false, "grad_loss must have the shape and dtype of the loss, got " + shape_of(grad_loss));
  const Tensor d_ap = contiguous_array(positive_distance), d_an = contiguous_array(negative_distance);
  const Tensor d_positive = new_array(d_ap, {in.count}, in.type), d_negative = new_array(d_ap, {in.count}, in.type);
  dispatch(in.type, [&](auto zero) {
    using T = decltype(zero);
    T *to_positive = mutable_data<T>(d_positive), *to_negative = mutable_data<T>(d_negative);
    global_loss_backward<T>(options.rule, data<T>(d_ap), data<T>(d_an), in.count, *data<T>(grad_loss), to_positive,
                            to_negative);
    add_gradient("grad_positive", grad_positive, in.count, in.type, to_positive);
    add_gradient("grad_negative", grad_negative, in.count, in.type, to_negative);
    for (T* d : {to_positive, to_negative})
      for (int64_t t = 0; t < in.count; ++t) d[t] = global_distance_backward(d[t]);
  });
  return triplet_gradient_tensor(options.measure, in, embeddings, d_positive, d_negative);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&global_loss_cpu>(m, "global_loss");
  implement<&global_loss_backward_cpu>(m, "global_loss_backward");
}

}  // namespace hardmine::cpu
