#include "cpu/engine/select_part.h"

#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

Tensor select_triplets_part_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ids, int64_t similarity,
                                int64_t positive, int64_t negative, int64_t semihard_fallback, int64_t tie,
                                double duplicate_threshold, double semihard_margin, bool allow_tf32,
                                bool need_negatives, int64_t part, int64_t num_parts) {
  const SelectionRule rule = selection_rule(similarity, positive, negative, semihard_fallback, tie, duplicate_threshold,
                                            semihard_margin, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, std::nullopt, std::nullopt, ids, std::nullopt);
  Tensor words = part_words(rule, inputs, need_negatives, part, num_parts);
  dispatch(inputs.type, [&]<class T>() {
    select_part<T>(rule, inputs.anchors<T>(), inputs.depth, {part, num_parts}, need_negatives, TorchThreadPool(),
                   mutable_data<int64_t>(words));
  });
  return words;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> selection_of_parts_cpu(Tensor words, int64_t similarity, int64_t positive,
                                                                  int64_t negative, int64_t semihard_fallback) {
  const SelectionRule rule = merged_rule(similarity, positive, negative, semihard_fallback);
  const SelectionTensors s = merged_selection_tensors(rule, checked_words("words", words, part_selections(rule)));
  return {s.positive, s.negative, s.positive_index, s.negative_index};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&select_triplets_part_cpu>(m, "select_triplets_part");
  implement<&selection_of_parts_cpu>(m, "selection_of_parts");
}

}  // namespace hardmine::cpu
