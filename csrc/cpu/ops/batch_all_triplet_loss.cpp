#include "cpu/engine/batch_all_triplet_loss.h"

#include <algorithm>
#include <cmath>

#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

// Checks that the margins of all pairs of classes in the batch are finite in the compute type. The check is not in
// Python because it must run under torch.compile, and because a large table need not be read as a whole.
template <class T>
void check_margins(const BatchAllRule& rule, const MarginTable<T>& table, const std::vector<int64_t>& rows) {
  const auto check_finite = [](T margin, const std::string& place) {
    if (!(std::fabs(margin) <= std::numeric_limits<T>::max()))
      fail("margin must be finite, got " + std::to_string(margin) + place);
  };
  if (!table.margin) return check_finite(static_cast<T>(rule.margin), "");
  for (const int64_t r : rows)
    for (const int64_t c : rows)
      check_finite(table.margin[r * table.rows + c], " at [" + std::to_string(r) + ", " + std::to_string(c) + "]");
}

// The distinct table rows of the batch's labels. Each label must have one.
std::vector<int64_t> rows_in_use(const Tensor& row, const Tensor& labels, int64_t table_rows) {
  std::vector<int64_t> rows(data<int64_t>(row), data<int64_t>(row) + row.numel());
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i] < 0 || rows[i] >= table_rows)
      fail("labels must have a row in margin, [" + std::to_string(table_rows) + ", " + std::to_string(table_rows) +
           "], got " + std::to_string(data<int64_t>(labels)[i]) + " at " + std::to_string(i));
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_all_triplet_loss_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ids, std::optional<Tensor> margin_table,
    std::optional<Tensor> table_row, int64_t similarity, bool squared, double margin, int64_t reduction,
    bool allow_tf32, bool need_grad) {
  const BatchAllRule rule = batch_all_rule(similarity, squared, margin, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, std::nullopt, std::nullopt, ids, std::nullopt);
  const int64_t depth = embeddings.size(1);
  const MarginTensors margins(margin_table, table_row, inputs.embeddings, inputs.type);
  std::vector<int64_t> rows;
  if (margin_table) rows = rows_in_use(*margins.row, inputs.labels, margins.margin->size(0));
  const BatchAllTensors out(inputs.embeddings, inputs.labels, inputs.type, need_grad);
  dispatch(inputs.type, [&]<class T>() {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const MarginTable<T> table = margins.table<T>();
    check_margins(rule, table, rows);
    BatchAllResult<T> result = batch_all<T>(rule, inputs.anchors<T>(), depth, table, TorchThreadPool(),
                                            need_grad ? mutable_data<T>(out.gradient) : nullptr);
    if (!result.finite) {  // divergence is never hidden
      result.loss = nan;
      std::fill_n(mutable_data<T>(out.gradient), out.gradient.numel(), nan);
    }
    *mutable_data<T>(out.loss) = result.loss;
    *mutable_data<int64_t>(out.active) = result.active;
    *mutable_data<int64_t>(out.total) = result.total;
  });
  return {out.loss, out.gradient, out.active, out.total};
}

// The embeddings are an argument only so that autograd notices a second derivative.
Tensor batch_all_triplet_loss_backward_cpu(Tensor grad_loss, Tensor grad_embeddings, Tensor) {
  const ScalarType type = grad_embeddings.scalar_type();
  check_scaled_gradient(grad_loss, grad_embeddings);
  const Tensor grad = torch::stable::contiguous(grad_embeddings);
  const Tensor out = new_array(grad, {grad.size(0), grad.size(1)}, type);
  dispatch(type, [&]<class T>() {
    const T factor = *data<T>(grad_loss);
    const T* from = data<T>(grad);
    T* to = mutable_data<T>(out);
    for (int64_t i = 0; i < grad.numel(); ++i) to[i] = factor * from[i];
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&batch_all_triplet_loss_cpu>(m, "batch_all_triplet_loss");
  implement<&batch_all_triplet_loss_backward_cpu>(m, "batch_all_triplet_loss_backward");
}

}  // namespace hardmine::cpu
