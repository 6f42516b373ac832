#include "cpu/engine/positive_ranks.h"

#include "core/options.h"
#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

Tensor tensor_of(const WorkspaceVector<int64_t>& values, const Tensor& like) {
  const Tensor out = new_array(like, {static_cast<int64_t>(values.size())}, ScalarType::Long);
  std::copy(values.begin(), values.end(), mutable_data<int64_t>(out));
  return out;
}

std::tuple<Tensor, Tensor> positive_ranks_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                                              std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                              std::optional<Tensor> ref_ids, int64_t similarity, int64_t part,
                                              int64_t num_parts) {
  const Similarity kind = similarity_from_code(similarity);
  check_part(part, num_parts);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  PositiveRanks ranks;
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    ranks = positive_ranks<T>(kind, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth,
                              {part, num_parts}, TorchThreadPool());
  });
  return {tensor_of(ranks.first, inputs.labels), tensor_of(ranks.rank, inputs.labels)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) { implement<&positive_ranks_cpu>(m, "positive_ranks"); }

}  // namespace hardmine::cpu
