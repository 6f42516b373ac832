#include "cpu/engine/supcon_loss.h"

#include "cpu/ops/scaled_gradient.h"
#include "cpu/ops/temperature.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor> supcon_loss_cpu(Tensor embeddings, Tensor labels,
                                                   std::optional<Tensor> ref_embeddings,
                                                   std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                   std::optional<Tensor> ref_ids, int64_t similarity,
                                                   double temperature, bool is_mean, bool need_embeddings,
                                                   bool need_ref_embeddings) {
  const SupConRule rule{.similarity = flat_similarity_from_code(similarity),
                        .temperature = temperature_in_range(temperature),
                        .is_mean = is_mean};
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const Tensor loss = inputs.new_loss(Reduction::kSum);
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings,
                                  {.rows = need_embeddings, .columns = need_ref_embeddings});
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    if (supcon_loss<T>(
            rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth, TorchThreadPool(),
            {.loss = mutable_data<T>(loss), .grad_x = gradients.x_data<T>(), .grad_refs = gradients.refs_data<T>()}))
      return;
    *mutable_data<T>(loss) = std::numeric_limits<T>::quiet_NaN();  // divergence is never hidden
    gradients.fill_nan<T>();
  });
  return {loss, gradients.x, gradients.refs};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&supcon_loss_cpu>(m, "supcon_loss");
  implement<&scaled_gradients<SupConRule>>(m, "supcon_loss_backward");
}

}  // namespace hardmine::cpu
