#include "cuda/ops/given_triplets.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> global_loss_cuda(Tensor embeddings, Tensor triplets, int64_t similarity, double lam,
                                                    double threshold) {
  const GlobalLossRule options = global_loss_rule(similarity, lam, threshold);
  return triplet_loss_tensors(options.measure, options.rule, embeddings, triplets);
}

Tensor global_loss_backward_cuda(Tensor grad_loss, std::optional<Tensor> grad_positive,
                                 std::optional<Tensor> grad_negative, Tensor embeddings, Tensor triplets,
                                 Tensor positive_distance, Tensor negative_distance, int64_t similarity, double lam,
                                 double threshold) {
  const GlobalLossRule options = global_loss_rule(similarity, lam, threshold);
  return triplet_gradient_tensor(options.measure, options.rule, embeddings, triplets,
                                 {.grad_loss = grad_loss,
                                  .grad_positive = grad_positive,
                                  .grad_negative = grad_negative,
                                  .positive_name = "positive_distance",
                                  .negative_name = "negative_distance",
                                  .positive = positive_distance,
                                  .negative = negative_distance});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&global_loss_cuda>(m, "global_loss");
  implement<&global_loss_backward_cuda>(m, "global_loss_backward");
}

}  // namespace hardmine::cuda
