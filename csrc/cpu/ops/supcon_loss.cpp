#include "cpu/engine/supcon_loss.h"

#include "cpu/ops/loss_with_gradients.h"
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
  return loss_with_gradients(inputs, {.rows = need_embeddings, .columns = need_ref_embeddings},
                             [&]<class T>(const LabeledMatrix<T>* refs, T* loss, T* grad_x, T* grad_refs) {
                               return supcon_loss<T>(rule, inputs.anchors<T>(), refs, inputs.depth, TorchThreadPool(),
                                                     {.loss = loss, .grad_x = grad_x, .grad_refs = grad_refs});
                             });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&supcon_loss_cpu>(m, "supcon_loss");
  implement<&scaled_gradients<SupConRule>>(m, "supcon_loss_backward");
}

}  // namespace hardmine::cpu
