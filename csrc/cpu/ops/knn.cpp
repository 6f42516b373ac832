#include "cpu/engine/knn.h"
#include "cpu/ops/pair_tensors.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor> knn_cpu(Tensor queries, std::optional<Tensor> refs, std::optional<Tensor> ids,
                                   std::optional<Tensor> ref_ids, int64_t k, bool exclude_self, int64_t similarity,
                                   bool) {
  const Similarity kind = similarity_from_code(similarity);
  const NeighborTensors t(queries, refs, ids, ref_ids, k, exclude_self);
  dispatch(t.type, [&]<class T>() {
    const Matrix<T> gallery = t.ref_matrix<T>();
    knn<T>(kind, t.query_matrix<T>(), refs ? &gallery : nullptr, queries.size(1), k, exclude_self, TorchThreadPool(),
           mutable_data<T>(t.similarity), mutable_data<int64_t>(t.index));
  });
  return {t.similarity, t.index};
}

std::tuple<Tensor, Tensor> knn_backward_cpu(Tensor grad_similarity, Tensor index, Tensor queries,
                                            std::optional<Tensor> refs, int64_t similarity, bool need_queries,
                                            bool need_refs) {
  const BackwardInputs inputs(queries, refs, {.rows = need_queries, .columns = need_refs});
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)),
                               checked_neighbors(index, grad_similarity, inputs), inputs, NonfiniteRows::kKeepGradients,
                               queries.scalar_type());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&knn_cpu>(m, "knn");
  implement<&knn_backward_cpu>(m, "knn_backward");
}

}  // namespace hardmine::cpu
