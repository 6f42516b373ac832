#include "cpu/engine/knn.h"
#include "cpu/ops/pair_tensors.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor> knn_cpu(Tensor queries, std::optional<Tensor> refs, std::optional<Tensor> ids,
                                   std::optional<Tensor> ref_ids, int64_t k, bool exclude_self, int64_t similarity,
                                   bool) {
  const Similarity kind = similarity_from_code(similarity);
  const ScalarType type = compute_type(queries);
  check_neighbors(queries, refs, ids, ref_ids, k, exclude_self);
  const int64_t count = queries.size(0), depth = queries.size(1);
  const Tensor x = as_array(queries, type), y = refs ? as_array(*refs, type) : x;
  const std::optional<Tensor> x_ids = contiguous_array(ids), y_ids = contiguous_array(ref_ids);
  const Tensor values = new_array(x, {count, k}, type), indices = new_array(x, {count, k}, ScalarType::Long);
  dispatch(type, [&]<class T>() {
    const Matrix<T> gallery{data<T>(y), y.size(0), data<int64_t>(y_ids)};
    knn<T>(kind, {data<T>(x), count, data<int64_t>(x_ids)}, refs ? &gallery : nullptr, depth, k, exclude_self,
           TorchThreadPool(), mutable_data<T>(values), mutable_data<int64_t>(indices));
  });
  return {values, indices};
}

std::tuple<Tensor, Tensor> knn_backward_cpu(Tensor grad_similarity, Tensor index, Tensor queries,
                                            std::optional<Tensor> refs, int64_t similarity, bool need_queries,
                                            bool need_refs) {
  return pair_gradient_tensors(measure_of(similarity_from_code(similarity)), {std::nullopt, index, grad_similarity},
                               queries, refs, {.rows = need_queries, .columns = need_refs},
                               NonfiniteRows::kKeepGradients);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&knn_cpu>(m, "knn");
  implement<&knn_backward_cpu>(m, "knn_backward");
}

}  // namespace hardmine::cpu
