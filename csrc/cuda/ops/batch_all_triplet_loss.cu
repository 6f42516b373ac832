#include <cmath>
#include <limits>

#include "cuda/kernels/batch_all_triplet_loss.h"
#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> batch_all_triplet_loss_cuda(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ids, std::optional<Tensor> margin_table,
    std::optional<Tensor> table_row, int64_t similarity, bool squared, double margin, int64_t reduction,
    bool allow_tf32, bool need_grad) {
  const BatchAllRule rule = batch_all_rule(similarity, squared, margin, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, std::nullopt, std::nullopt, ids, std::nullopt);
  const MarginTensors margins(margin_table, table_row, inputs.embeddings, inputs.type);
  OpContext context(inputs.embeddings);
  const BatchAllTensors out(inputs.embeddings, inputs.labels, inputs.type, need_grad);
  const bool squared_differences = batch_all_measure(rule, true).quantity != PairQuantity::kInnerProduct;
  const ScalarType dtype = inputs.embeddings.scalar_type();
  with_mma_policy(dtype, squared_differences, rule.allow_tf32, [&]<class MmaPolicy, class Scalar>() {
    using acc_t = typename MmaPolicy::acc_t;
    const auto margin = static_cast<acc_t>(rule.margin);
    if (!margin_table && !(std::fabs(margin) <= std::numeric_limits<acc_t>::max()))
      fail("margin must be finite, got " + std::to_string(margin));
    batch_all<MmaPolicy>(rule, inputs.anchors<Scalar>(), inputs.depth, margins.table<acc_t>(),
                         {
                             .loss = mutable_data<acc_t>(out.loss),
                             .active = mutable_data<int64_t>(out.active),
                             .total = mutable_data<int64_t>(out.total),
                             .grad = need_grad ? mutable_data<acc_t>(out.gradient) : nullptr,
                         },
                         {}, context, context.stream());
  });
  return {out.loss, out.gradient, out.active, out.total};
}

// The embeddings are an argument so that autograd notices when a second derivative is requested.
Tensor batch_all_triplet_loss_backward_cuda(Tensor grad_loss, Tensor grad_embeddings, Tensor) {
  const ScalarType type = grad_embeddings.scalar_type();
  check_scaled_gradient(grad_loss, grad_embeddings);
  const Tensor grad = contiguous_array(grad_embeddings);
  OpContext context(grad);
  const Tensor out = new_array(grad, {grad.size(0), grad.size(1)}, type);
  const auto scale = [&]<class acc_t>() {
    scale_gradient<acc_t>(data<acc_t>(grad), data<acc_t>(grad_loss), grad.numel(), mutable_data<acc_t>(out),
                          context.stream());
  };
  type == ScalarType::Double ? scale.operator()<double>() : scale.operator()<float>();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&batch_all_triplet_loss_cuda>(m, "batch_all_triplet_loss");
  implement<&batch_all_triplet_loss_backward_cuda>(m, "batch_all_triplet_loss_backward");
}

}  // namespace hardmine::cuda
