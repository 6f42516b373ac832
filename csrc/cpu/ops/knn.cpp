#include "cpu/engine/knn.h"
#include "cpu/ops/pair_tensors.h"
#include "cpu/simd/operands.h"

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

// Lists that an op merges into: [rows, k], contiguous.
void check_lists(const char* name, const Tensor& t, int64_t rows, int64_t k, ScalarType type) {
  check_pairs(name, t, rows, type);
  check(t.size(1) == k && t.is_contiguous(), std::string(name) + " must be contiguous with K = " + std::to_string(k));
}

// No result but the lists; a number, because ops return something.
int64_t knn_block_cpu(Tensor queries, std::optional<Tensor> refs, std::optional<Tensor> ids,
                      std::optional<Tensor> ref_ids, Tensor first_key, Tensor first_numbers, Tensor key, Tensor numbers,
                      bool exclude_self, int64_t similarity, int64_t first_number, int64_t other_number) {
  const Similarity kind = similarity_from_code(similarity);
  const int64_t first_rows = first_numbers.size(0), k = numbers.size(1);
  const ScalarType type = compute_type(queries);
  check_neighbors(queries, refs, ids, ref_ids, k, exclude_self);
  check_lists("first_key", first_key, first_rows, k, type);
  check_lists("first_numbers", first_numbers, first_rows, k, ScalarType::Long);
  check_lists("key", key, queries.size(0) - first_rows, k, type);
  check_lists("numbers", numbers, queries.size(0) - first_rows, k, ScalarType::Long);
  if (first_rows % kBlockStep != 0 || (refs && first_rows > 0))
    fail("first_key must have a multiple of " + std::to_string(kBlockStep) + " rows, 0 with refs, got " +
         shape_of(first_key));
  check(first_number >= 0 && other_number >= 0, "first_number and other_number must be row numbers");
  const Tensor rows = embedding_array(queries);
  const std::optional<Tensor> columns = embedding_array(refs), row_ids = contiguous_array(ids),
                              column_ids = contiguous_array(ref_ids);
  dispatch(type, [&]<class T>() {
    const Matrix<T> gallery =
        columns ? Matrix<T>{data<T>(*columns), columns->size(0), data<int64_t>(column_ids)} : Matrix<T>{};
    knn_block<T>(kind, {data<T>(rows), rows.size(0), data<int64_t>(row_ids)}, columns ? &gallery : nullptr,
                 queries.size(1), k, exclude_self,
                 {.first_rows = first_rows,
                  .first_number = first_number,
                  .other_number = other_number,
                  .first = {mutable_data<T>(first_key), mutable_data<int64_t>(first_numbers)},
                  .others = {mutable_data<T>(key), mutable_data<int64_t>(numbers)}},
                 TorchThreadPool());
  });
  return k;
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
  implement<&knn_block_cpu>(m, "knn_block");
  implement<&knn_backward_cpu>(m, "knn_backward");
}

}  // namespace hardmine::cpu
