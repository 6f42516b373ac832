#include "cpu/engine/batch_all_triplet_loss.h"

#include <algorithm>
#include <cmath>

#include "cpu/ops/loss_with_gradients.h"
#include "cpu/ops/selection_tensors.h"

namespace hardmine::cpu {
namespace {

// Checks that the margins of all pairs of classes in the batch are finite in the compute type. The check is not in
// Python because it must run under torch.compile, and because a large table need not be read as a whole.
template <class T>
void check_margins(const BatchAllRule& rule, const MarginTable<T>& table, const std::vector<int64_t>& rows,
                   const std::vector<int64_t>& columns) {
  const auto check_finite = [](T margin, const std::string& place) {
    if (!(std::fabs(margin) <= std::numeric_limits<T>::max()))
      fail("margin must be finite, got " + std::to_string(margin) + place);
  };
  if (!table.margin) return check_finite(static_cast<T>(rule.margin), "");
  for (const int64_t r : rows)
    for (const int64_t c : columns)
      check_finite(table.margin[r * table.rows + c], " at [" + std::to_string(r) + ", " + std::to_string(c) + "]");
}

// The distinct table rows of some labels. Each label must have one.
std::vector<int64_t> rows_in_use(const Tensor& row, const char* name, const Tensor& labels, int64_t table_rows) {
  std::vector<int64_t> rows(data<int64_t>(row), data<int64_t>(row) + row.numel());
  for (size_t i = 0; i < rows.size(); ++i)
    if (rows[i] < 0 || rows[i] >= table_rows)
      fail(std::string(name) + " must have a row in margin, [" + std::to_string(table_rows) + ", " +
           std::to_string(table_rows) + "], got " + std::to_string(data<int64_t>(labels)[i]) + " at " +
           std::to_string(i));
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_all_triplet_loss_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, std::optional<Tensor> margin_table,
    std::optional<Tensor> table_row, std::optional<Tensor> ref_table_row, int64_t similarity, bool squared,
    double margin, int64_t reduction, bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) {
  const BatchAllRule rule = batch_all_rule(similarity, squared, margin, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const MarginTensors margins(margin_table, table_row, ref_table_row, inputs.embeddings, inputs.ref_embeddings,
                              inputs.type);
  std::vector<int64_t> rows, columns;
  if (margin_table) {
    const int64_t table_rows = margins.margin->size(0);
    rows = rows_in_use(*margins.row, "labels", inputs.labels, table_rows);
    columns = margins.ref_row ? rows_in_use(*margins.ref_row, "ref_labels", *inputs.ref_labels, table_rows) : rows;
  }
  const BatchAllTensors out(inputs.embeddings, inputs.labels, inputs.ref_embeddings, inputs.type, need_embeddings,
                            need_ref_embeddings);
  dispatch(inputs.type, [&]<class T>() {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const MarginTable<T> table = margins.table<T>();
    check_margins(rule, table, rows, columns);
    const LabeledMatrix<T> refs = inputs.refs<T>();
    const auto target = [](const Tensor& grad) { return grad.dim() == 2 ? mutable_data<T>(grad) : nullptr; };
    BatchAllResult<T> result =
        batch_all<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth, table,
                     TorchThreadPool(), target(out.grad_x), target(out.grad_refs));
    if (!result.finite) {  // divergence is never hidden
      result.loss = nan;
      for (const Tensor& grad : {out.grad_x, out.grad_refs}) std::fill_n(mutable_data<T>(grad), grad.numel(), nan);
    }
    *mutable_data<T>(out.loss) = result.loss;
    *mutable_data<int64_t>(out.active) = result.active;
    *mutable_data<int64_t>(out.total) = result.total;
  });
  return {out.loss, out.grad_x, out.grad_refs, out.active, out.total};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&batch_all_triplet_loss_cpu>(m, "batch_all_triplet_loss");
  implement<&scaled_gradients<BatchAllRule>>(m, "batch_all_triplet_loss_backward");
}

}  // namespace hardmine::cpu
