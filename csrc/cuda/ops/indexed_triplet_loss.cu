#include "cuda/ops/given_triplets.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> indexed_triplet_loss_cuda(Tensor embeddings, Tensor triplets, int64_t similarity,
                                                             int64_t term, double temperature, double margin,
                                                             double lam, int64_t reduction) {
  const IndexedLossRule rule = indexed_loss_rule(similarity, term, temperature, margin, lam, reduction);
  return triplet_loss_tensors(rule.measure, IndexedLoss{rule.term, rule.reduction}, embeddings, triplets);
}

Tensor indexed_triplet_loss_backward_cuda(Tensor grad_loss, std::optional<Tensor> grad_positive,
                                          std::optional<Tensor> grad_negative, Tensor embeddings, Tensor triplets,
                                          Tensor positive_similarity, Tensor negative_similarity, int64_t similarity,
                                          int64_t term, double temperature, double margin, double lam,
                                          int64_t reduction) {
  const IndexedLossRule rule = indexed_loss_rule(similarity, term, temperature, margin, lam, reduction);
  return triplet_gradient_tensor(rule.measure, IndexedLoss{rule.term, rule.reduction}, embeddings, triplets,
                                 {.grad_loss = grad_loss,
                                  .grad_positive = grad_positive,
                                  .grad_negative = grad_negative,
                                  .positive_name = "positive_similarity",
                                  .negative_name = "negative_similarity",
                                  .positive = positive_similarity,
                                  .negative = negative_similarity});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&indexed_triplet_loss_cuda>(m, "indexed_triplet_loss");
  implement<&indexed_triplet_loss_backward_cuda>(m, "indexed_triplet_loss_backward");
}

}  // namespace hardmine::cuda
