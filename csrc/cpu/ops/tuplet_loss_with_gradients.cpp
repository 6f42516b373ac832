// The reduced tuplet losses and their gradients in one op.

#include "cpu/engine/buffer.h"
#include "cpu/engine/tuplet_loss.h"
#include "cpu/ops/loss_with_gradients.h"

namespace hardmine::cpu {
namespace {

// What the forward pass writes per anchor, which no caller sees.
template <class T>
struct TupletBuffers {
  Buffer<T> loss, logsumexp, shift, sum, slope, positive_similarity;
  Buffer<int64_t> positive_index, positive_count;

  explicit TupletBuffers(int64_t count)
      : loss(count),
        logsumexp(count),
        shift(count),
        sum(count),
        slope(count),
        positive_similarity(count),
        positive_index(count),
        positive_count(count) {}
  TupletOut<T> out() const {
    return {.loss = loss.get(),
            .logsumexp = logsumexp.get(),
            .shift = shift.get(),
            .sum = sum.get(),
            .slope = slope.get(),
            .positive_similarity = positive_similarity.get(),
            .positive_index = positive_index.get(),
            .positive_count = positive_count.get()};
  }
};

std::tuple<Tensor, Tensor, Tensor> tuplet_loss_with_gradients_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, int64_t similarity, int64_t positive, double temperature,
    double duplicate_threshold, int64_t reduction, bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  check(rule.reduction != Reduction::kNone, "reduction must not be 'none'");
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  return loss_with_gradients(inputs, {.rows = need_embeddings, .columns = need_ref_embeddings},
                             [&]<class T>(const LabeledMatrix<T>* refs, T* loss, T* grad_x, T* grad_refs) {
                               const TupletBuffers<T> buffers(inputs.count);
                               const TupletOut<T> out = buffers.out();
                               if (!tuplet_with_gradients<T>(rule, inputs.anchors<T>(), refs, inputs.depth,
                                                             TorchThreadPool(), out, grad_x, grad_refs))
                                 return false;
                               *loss = reduce_tuplets(rule.reduction, out.loss, out.positive_count, inputs.count);
                               return true;
                             });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&tuplet_loss_with_gradients_cpu>(m, "tuplet_loss_with_gradients");
  implement<&scaled_gradients<TupletRule>>(m, "tuplet_loss_with_gradients_backward");
}

}  // namespace hardmine::cpu
