#include "cuda/kernels/knn.h"
#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor> knn_cuda(Tensor queries, std::optional<Tensor> refs, std::optional<Tensor> ids,
                                    std::optional<Tensor> ref_ids, int64_t k, bool exclude_self, int64_t similarity,
                                    bool allow_tf32) {
  const Similarity kind = similarity_from_code(similarity);
  const NeighborTensors t(queries, refs, ids, ref_ids, k, exclude_self);
  OpContext context(t.queries);
  const bool squared_differences = is_distance(measure_of(kind));
  with_mma_policy(queries.scalar_type(), squared_differences, allow_tf32, [&]<class MmaPolicy, class Scalar>() {
    using acc_t = typename MmaPolicy::acc_t;
    const Matrix<Scalar> gallery = t.ref_matrix<Scalar>();
    knn<MmaPolicy>(kind, t.query_matrix<Scalar>(), refs ? &gallery : nullptr, queries.size(1), k, exclude_self,
                   KnnOut<acc_t>{mutable_data<acc_t>(t.similarity), mutable_data<int64_t>(t.index)}, context,
                   context.stream());
  });
  return {t.similarity, t.index};
}

std::tuple<Tensor, Tensor> knn_backward_cuda(Tensor grad_similarity, Tensor index, Tensor queries,
                                             std::optional<Tensor> refs, int64_t similarity, bool need_queries,
                                             bool need_refs) {
  const PairMeasure measure = measure_of(similarity_from_code(similarity));
  const BackwardInputs inputs(queries, refs, {.rows = need_queries, .columns = need_refs});
  const PairTensors pairs = checked_neighbors(index, grad_similarity, inputs);
  OpContext context(inputs.embeddings);
  with_gradient(inputs, [&]<class acc_t>(const auto& rows, const auto& out) {
    pair_gradient(measure, rows, pairs.list<acc_t>(), NonfiniteRows::kKeepGradients, out, context, context.stream());
  });
  return inputs.gradients.as(queries.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&knn_cuda>(m, "knn");
  implement<&knn_backward_cuda>(m, "knn_backward");
}

}  // namespace hardmine::cuda
