#include <cmath>
#include <limits>

#include "cuda/kernels/batch_all_triplet_loss.h"
#include "cuda/ops/pair_tensors.h"

namespace hardmine::cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> batch_all_triplet_loss_cuda(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, std::optional<Tensor> margin_table,
    std::optional<Tensor> table_row, std::optional<Tensor> ref_table_row, int64_t similarity, bool squared,
    double margin, int64_t reduction, bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) {
  const BatchAllRule rule = batch_all_rule(similarity, squared, margin, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const MarginTensors margins(margin_table, table_row, ref_table_row, inputs.embeddings, inputs.ref_embeddings,
                              inputs.type);
  OpContext context(inputs.embeddings);
  const BatchAllTensors out(inputs.embeddings, inputs.labels, inputs.ref_embeddings, inputs.type, need_embeddings,
                            need_ref_embeddings);
  const bool squared_differences = batch_all_measure(rule, true).quantity != PairQuantity::kInnerProduct;
  const ScalarType dtype = inputs.embeddings.scalar_type();
  with_mma_policy(dtype, squared_differences, rule.allow_tf32, [&]<class MmaPolicy, class Scalar>() {
    using acc_t = typename MmaPolicy::acc_t;
    const auto margin = static_cast<acc_t>(rule.margin);
    if (!margin_table && !(std::fabs(margin) <= std::numeric_limits<acc_t>::max()))
      fail("margin must be finite, got " + std::to_string(margin));
    const LabeledMatrix<Scalar> refs = inputs.refs<Scalar>();
    const auto target = [](const Tensor& grad) { return grad.dim() == 2 ? mutable_data<acc_t>(grad) : nullptr; };
    batch_all<MmaPolicy>(rule, inputs.anchors<Scalar>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth,
                         margins.table<acc_t>(),
                         {
                             .loss = mutable_data<acc_t>(out.loss),
                             .active = mutable_data<int64_t>(out.active),
                             .total = mutable_data<int64_t>(out.total),
                             .grad_x = target(out.grad_x),
                             .grad_refs = target(out.grad_refs),
                         },
                         {}, context, context.stream());
  });
  return {out.loss, out.grad_x, out.grad_refs, out.active, out.total};
}

// Embeddings and refs are arguments so that autograd notices when a second derivative is requested.
std::tuple<Tensor, Tensor> batch_all_triplet_loss_backward_cuda(Tensor grad_loss, Tensor grad_embeddings,
                                                                Tensor grad_ref_embeddings, Tensor,
                                                                std::optional<Tensor>, bool need_embeddings,
                                                                bool need_ref_embeddings) {
  const auto scaled = [&](const char* name, const Tensor& given, bool need) {
    const ScalarType type = given.scalar_type();
    if (!need) return new_array(given, {0}, type);
    check_scaled_gradient(grad_loss, name, given);
    const Tensor grad = contiguous_array(given);
    OpContext context(grad);
    const Tensor out = new_array(grad, {grad.size(0), grad.size(1)}, type);
    const auto scale = [&]<class acc_t>() {
      scale_gradient<acc_t>(data<acc_t>(grad), data<acc_t>(grad_loss), grad.numel(), mutable_data<acc_t>(out),
                            context.stream());
    };
    type == ScalarType::Double ? scale.operator()<double>() : scale.operator()<float>();
    return out;
  };
  return {scaled("grad_embeddings", grad_embeddings, need_embeddings),
          scaled("grad_ref_embeddings", grad_ref_embeddings, need_ref_embeddings)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  implement<&batch_all_triplet_loss_cuda>(m, "batch_all_triplet_loss");
  implement<&batch_all_triplet_loss_backward_cuda>(m, "batch_all_triplet_loss_backward");
}

}  // namespace hardmine::cuda
