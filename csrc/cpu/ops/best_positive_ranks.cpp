#include "cpu/engine/best_positive_ranks.h"

#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

Tensor best_positive_ranks_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                               std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                               std::optional<Tensor> ref_ids, int64_t limit, int64_t part, int64_t num_parts) {
  check(limit >= 1 && limit <= kMaxCountedCandidates, "limit must be from 1 to 64, got " + std::to_string(limit));
  check_part(part, num_parts);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const Tensor better = inputs.new_vector(ScalarType::Long);
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    best_positive_ranks<T>(inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth, limit,
                           {part, num_parts}, TorchThreadPool(), mutable_data<int64_t>(better));
  });
  return better;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) { implement<&best_positive_ranks_cpu>(m, "best_positive_ranks"); }

}  // namespace hardmine::cpu
