#include <cmath>
#include <limits>

#include "batch_all.h"
#include "torch_bridge.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_all_triplet_loss_cuda(Tensor embeddings, Tensor labels,
                                                                       std::optional<Tensor> margin_table,
                                                                       std::optional<Tensor> table_row,
                                                                       std::vector<int64_t> modes,
                                                                       std::vector<double> numbers, bool need_grad) {
  const BatchAllRule rule = batch_all_rule(modes, numbers);
  const LabelledInputs inputs(embeddings, labels, std::nullopt, std::nullopt);
  check(margin_table.has_value() == table_row.has_value(), "margin_table and table_row must be given together");
  Tensor margins = inputs.embeddings, row = inputs.labels;
  if (margin_table) {
    check_matrix("margin_table", *margin_table, -1);
    check_matrix("margin_table", *margin_table, margin_table->size(0));
    check_same_device("margin_table", *margin_table, embeddings);
    check_vector("table_row", *table_row, inputs.count, ScalarType::Long);
    check_same_device("table_row", *table_row, embeddings);
    margins = as_array(*margin_table, inputs.type);
    row = contiguous_array(*table_row);
  }
  OpContext context(inputs.embeddings);
  const Tensor loss = new_array(inputs.embeddings, {}, inputs.type),
               active = new_array(inputs.labels, {}, ScalarType::Long),
               total = new_array(inputs.labels, {}, ScalarType::Long);
  const Tensor grad = need_grad ? new_array(inputs.embeddings, {inputs.count, inputs.depth}, inputs.type)
                                : new_array(inputs.embeddings, {0}, inputs.type);
  const bool squares = batch_all_measure(rule, true).quantity != PairQuantity::kInnerProduct;
  with_arithmetic(inputs.embeddings.scalar_type(), squares, rule.allow_tf32, [&](auto arithmetic, auto scalar) {
    using Arithmetic = typename decltype(arithmetic)::type;
    using Scalar = typename decltype(scalar)::type;
    using Number = typename Arithmetic::Number;
    MarginTable<Number> table{};
    if (margin_table) {
      table = {data<Number>(margins), data<int64_t>(row), margins.size(0)};
    } else if (const auto margin = static_cast<Number>(rule.margin);
               !(std::fabs(margin) <= std::numeric_limits<Number>::max())) {
      check(false, "margin must be finite, got " + std::to_string(margin));
    }
    batch_all<Arithmetic>(rule, inputs.anchors<Scalar>(), inputs.depth, table,
                          {mutable_data<Number>(loss), mutable_data<int64_t>(active), mutable_data<int64_t>(total),
                           need_grad ? mutable_data<Number>(grad) : nullptr},
                          {}, context, context.stream());
  });
  return {loss, grad, active, total};
}

// The embeddings are only there for autograd, which is to know that a second derivative is asked for.
Tensor batch_all_triplet_loss_backward_cuda(Tensor grad_loss, Tensor grad_embeddings, Tensor) {
  const ScalarType type = grad_embeddings.scalar_type();
  check(is_here(grad_loss) && grad_loss.numel() == 1 && grad_loss.scalar_type() == type,
        "grad_loss must be one number of the type of grad_embeddings, got " + shape_of(grad_loss));
  check(type == ScalarType::Float || type == ScalarType::Double, "grad_embeddings must be float32 or float64");
  check_matrix("grad_embeddings", grad_embeddings, -1);
  check_same_device("grad_loss", grad_loss, grad_embeddings);
  const Tensor grad = contiguous_array(grad_embeddings);
  OpContext context(grad);
  const Tensor out = new_array(grad, {grad.size(0), grad.size(1)}, type);
  const auto scale = [&](auto zero) {
    using Number = decltype(zero);
    scale_gradient<Number>(data<Number>(grad), data<Number>(grad_loss), grad.numel(), mutable_data<Number>(out),
                           context.stream());
  };
  type == ScalarType::Double ? scale(0.0) : scale(0.0f);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  m.impl("batch_all_triplet_loss", TORCH_BOX(&batch_all_triplet_loss_cuda));
  m.impl("batch_all_triplet_loss_backward", TORCH_BOX(&batch_all_triplet_loss_backward_cuda));
}

}  // namespace hardmine::cuda
