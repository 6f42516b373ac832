// Every op of hardmine, in one place. Shapes: embeddings [B, D], labels [B] int64, ref_embeddings [M, D], ref_labels
// [M] int64. "No limit" is an infinity. Implementations: cpu/<op>.cpp, cuda/<op>.cu. Python faces:
// hardmine/ops/<op>.py.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(hardmine, m) {
  // -> positive_similarity [B], negative_similarity [B], positive_index [B], negative_index [B]
  m.def(
      "select_triplets(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "str positive, str negative, str similarity, float duplicate_threshold, str semihard_fallback, str tie, "
      "float semihard_margin) -> (Tensor, Tensor, Tensor, Tensor)");

  // The gradients of the selected similarities -> grad_embeddings [B, D], grad_ref_embeddings [M, D]; one that is not
  // needed is empty.
  m.def(
      "select_triplets_backward(Tensor grad_positive, Tensor grad_negative, Tensor embeddings, Tensor? ref_embeddings, "
      "Tensor positive_index, Tensor negative_index, str similarity, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor)");

  // -> loss [] or [B], and what select_triplets returns. sct_loss is this op with term='sct' and a preset's hard_rule.
  m.def(
      "triplet_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "str positive, str negative, str similarity, float duplicate_threshold, str semihard_fallback, str tie, "
      "float semihard_margin, str term, float temperature, float margin, float lam, str hard_rule, float hard_cutoff, "
      "bool separate_means, float min_similarity, str reduction) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The gradients of the loss and of the selected similarities -> as select_triplets_backward.
  m.def(
      "triplet_loss_backward(Tensor grad_loss, Tensor? grad_positive, Tensor? grad_negative, Tensor embeddings, "
      "Tensor? ref_embeddings, Tensor positive_similarity, Tensor negative_similarity, Tensor positive_index, "
      "Tensor negative_index, str similarity, str term, float temperature, float margin, float lam, str hard_rule, "
      "float hard_cutoff, bool separate_means, float min_similarity, str reduction, bool need_embeddings, "
      "bool need_ref_embeddings) -> (Tensor, Tensor)");

  // The SIMD level that the CPU ops run at: 'scalar', 'avx2', 'avx512' or 'neon'.
  m.def("simd_level() -> str");
}
