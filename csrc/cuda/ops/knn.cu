#include "cuda/kernels/knn.h"
#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor> knn_cuda(Tensor queries, std::optional<Tensor> refs, std::optional<Tensor> ids,
                                    std::optional<Tensor> ref_ids, int64_t k, bool exclude_self, int64_t similarity,
                                    bool allow_tf32) {
  const Similarity kind = similarity_from_code(similarity);
  const ScalarType type = compute_type(queries);
  check_neighbors(queries, refs, ids, ref_ids, k, exclude_self);
  const int64_t count = queries.size(0), depth = queries.size(1);
  const Tensor x = contiguous_array(queries), y = refs ? contiguous_array(*refs) : x;
  const std::optional<Tensor> x_ids = contiguous_array(ids), y_ids = contiguous_array(ref_ids);
  const Tensor values = new_array(x, {count, k}, type), indices = new_array(x, {count, k}, ScalarType::Long);
  OpContext context(x);
  with_mma_policy(x.scalar_type(), is_distance(measure_of(kind)), allow_tf32, [&]<class MmaPolicy, class Scalar>() {
    using acc_t = typename MmaPolicy::acc_t;
    const Matrix<Scalar> gallery{data<Scalar>(y), y.size(0), data<int64_t>(y_ids)};
    knn<MmaPolicy>(kind, Matrix<Scalar>{data<Scalar>(x), count, data<int64_t>(x_ids)}, refs ? &gallery : nullptr, depth,
                   k, exclude_self, KnnOut<acc_t>{mutable_data<acc_t>(values), mutable_data<int64_t>(indices)}, context,
                   context.stream());
  });
  return {values, indices};
}

std::tuple<Tensor, Tensor> knn_backward_cuda(Tensor grad_similarity, Tensor index, Tensor queries,
                                             std::optional<Tensor> refs, int64_t similarity, bool need_queries,
                                             bool need_refs) {
  const PairMeasure measure = measure_of(similarity_from_code(similarity));
  const GradientTensors tensors(queries, refs, {.rows = need_queries, .columns = need_refs});
  const int64_t count = tensors.count();
  check_pairs("index", index, count, ScalarType::Long);
  check_pairs("grad_similarity", grad_similarity, count, compute_type(tensors.embeddings));
  check_same_device("index", index, tensors.embeddings);
  check_same_device("grad_similarity", grad_similarity, tensors.embeddings);
  check(grad_similarity.size(1) == index.size(1), "grad_similarity must have the shape of index");
  const Tensor right = contiguous_array(index), gradient = contiguous_array(grad_similarity);
  OpContext context(tensors.embeddings);
  with_gradient(tensors, [&]<class acc_t>(const auto& rows, const auto& out) {
    const PairList<acc_t> pairs{
        .left = nullptr,
        .right = data<int64_t>(right),
        .gradient = data<acc_t>(gradient),
        .count = count,
        .partners = right.size(1),
    };
    pair_gradient(measure, rows, pairs, NonfiniteRows::kKeepGradients, out, context, context.stream());
  });
  return {tensors.grad_x, tensors.grad_refs};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&knn_cuda>(m, "knn");
  implement<&knn_backward_cuda>(m, "knn_backward");
}

}  // namespace hardmine::cuda
