#include "cpu/ops/pair_tensors.h"
#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {

namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> select_triplets_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, std::optional<Tensor> random, int64_t similarity,
    int64_t positive, int64_t negative, int64_t semihard_fallback, int64_t tie, double duplicate_threshold,
    double semihard_margin, bool allow_tf32) {
  const SelectionTensors selected =
      select_triplets_tensors(selection_rule(similarity, positive, negative, semihard_fallback, tie,
                                             duplicate_threshold, semihard_margin, allow_tf32),
                              {embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids}, random);
  return {selected.positive_similarity, selected.negative_similarity, selected.positive_index, selected.negative_index};
}

std::tuple<Tensor, Tensor> select_triplets_backward_cpu(Tensor grad_positive, Tensor grad_negative, Tensor embeddings,
                                                        std::optional<Tensor> ref_embeddings, Tensor positive_index,
                                                        Tensor negative_index, int64_t similarity, bool need_embeddings,
                                                        bool need_ref_embeddings) {
  check_matrix("embeddings", embeddings, -1);
  const PairTensors pairs = selected_pair_tensors(positive_index, negative_index, grad_positive, grad_negative,
                                                  embeddings.size(0), compute_type(embeddings));
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)), pairs, embeddings, ref_embeddings,
                               {.rows = need_embeddings, .columns = need_ref_embeddings},
                               NonfiniteRows::kKeepGradients);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&select_triplets_cpu>(m, "select_triplets");
  implement<&select_triplets_backward_cpu>(m, "select_triplets_backward");
}

}  // namespace hardmine::cpu
