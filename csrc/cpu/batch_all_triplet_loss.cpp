#include "batch_all.h"
#include "torch_bridge.h"

namespace hardmine::cpu {
namespace {

// table_row as an array of rows of the table, checked.
Tensor checked_table_row(const Tensor& table_row, int64_t count, int64_t rows) {
  check_vector("table_row", table_row, count, ScalarType::Long);
  return checked_indices("table_row", table_row, 0, rows);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_all_triplet_loss_cpu(Tensor embeddings, Tensor labels,
                                                                      std::optional<Tensor> margin_table,
                                                                      std::optional<Tensor> table_row,
                                                                      std::vector<int64_t> modes,
                                                                      std::vector<double> numbers, bool need_grad) {
  const BatchAllRule rule = batch_all_rule(modes, numbers);
  const SelectionInputs inputs(embeddings, labels, std::nullopt, std::nullopt);
  const int64_t count = embeddings.size(0), depth = embeddings.size(1);
  check(margin_table.has_value() == table_row.has_value(), "margin_table and table_row must be given together");
  Tensor margins = inputs.embeddings, row = inputs.labels;
  if (margin_table) {
    check_matrix("margin_table", *margin_table, margin_table->size(0));
    margins = as_array(*margin_table, inputs.type);
    row = checked_table_row(*table_row, count, margins.size(0));
  }
  const Tensor loss = new_array(inputs.embeddings, {}, inputs.type),
               active = new_array(inputs.labels, {}, ScalarType::Long),
               total = new_array(inputs.labels, {}, ScalarType::Long);
  const Tensor grad = need_grad ? new_array(inputs.embeddings, {count, depth}, inputs.type)
                                : new_array(inputs.embeddings, {0}, inputs.type);
  dispatch(inputs.type, [&](auto zero) {
    using T = decltype(zero);
    const T nan = std::numeric_limits<T>::quiet_NaN();
    MarginTable<T> table{};
    if (margin_table) table = {data<T>(margins), data<int64_t>(row), margins.size(0)};
    BatchAllResult<T> result = batch_all<T>(rule, inputs.anchors<T>(), depth, table, TorchWorkers(),
                                            need_grad ? mutable_data<T>(grad) : nullptr);
    if (!result.finite) {  // divergence is never hidden
      result.loss = nan;
      std::fill_n(mutable_data<T>(grad), grad.numel(), nan);
    }
    *mutable_data<T>(loss) = result.loss;
    *mutable_data<int64_t>(active) = result.active;
    *mutable_data<int64_t>(total) = result.total;
  });
  return {loss, grad, active, total};
}

Tensor batch_all_triplet_loss_backward_cpu(Tensor grad_loss, Tensor grad_embeddings) {
  const ScalarType type = grad_embeddings.scalar_type();
  check(grad_loss.is_cpu() && grad_loss.numel() == 1 && grad_loss.scalar_type() == type,
        "grad_loss must be one number of the type of grad_embeddings, got " + shape_of(grad_loss));
  check(type == ScalarType::Float || type == ScalarType::Double, "grad_embeddings must be float32 or float64");
  const Tensor grad = torch::stable::contiguous(grad_embeddings);
  check_matrix("grad_embeddings", grad, -1);
  const Tensor out = new_array(grad, {grad.size(0), grad.size(1)}, type);
  dispatch(type, [&](auto zero) {
    using T = decltype(zero);
    const T factor = *data<T>(grad_loss);
    const T* from = data<T>(grad);
    T* to = mutable_data<T>(out);
    for (int64_t i = 0; i < grad.numel(); ++i) to[i] = factor * from[i];
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  m.impl("batch_all_triplet_loss", TORCH_BOX(&batch_all_triplet_loss_cpu));
  m.impl("batch_all_triplet_loss_backward", TORCH_BOX(&batch_all_triplet_loss_backward_cpu));
}

}  // namespace hardmine::cpu
