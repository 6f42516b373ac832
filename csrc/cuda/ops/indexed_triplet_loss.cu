#include "cuda/ops/given_triplets.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> indexed_triplet_loss_cuda(Tensor embeddings, Tensor triplets, int64_t similarity,
                                                             int64_t term, double temperature, double margin,
                                                             double lam, int64_t reduction) {
  const IndexedLossRule rule = indexed_loss_rule(similarity, term, temperature, margin, lam, reduction);
  return triplet_loss_tensors(rule.measure, IndexedLoss{rule.term, rule.reduction}, embeddings, triplets,
                              rule.reduction == Reduction::kNone);
}

Tensor indexed_triplet_loss_backward_cuda(Tensor grad_loss, std::optional<Tensor> grad_positive,
                                          std::optional<Tensor> grad_negative, Tensor embeddings, Tensor triplets,
                                          Tensor positive_similarity, Tensor negative_similarity, int64_t similarity,
                                          int64_t term, double temperature, double margin, double lam,
                                          int64_t reduction) {
  const IndexedLossRule rule = indexed_loss_rule(similarity, term, temperature, margin, lam, reduction);
  return triplet_gradient_tensor(rule.measure, IndexedLoss{rule.term, rule.reduction}, embeddings, triplets,
                                 {grad_loss, grad_positive, grad_negative, "positive_similarity", "negative_similarity",
                                  positive_similarity, negative_similarity},
                                 rule.reduction == Reduction::kNone);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&indexed_triplet_loss_cuda>(m, "indexed_triplet_loss");
  implement<&indexed_triplet_loss_backward_cuda>(m, "indexed_triplet_loss_backward");
}

}  // namespace hardmine::cuda
