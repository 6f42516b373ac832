// The multi-similarity and the circle loss, reduced, and their gradients in one op.

#include "cpu/engine/two_sums_loss.h"

#include <cmath>

#include "core/options.h"
#include "cpu/ops/loss_with_gradients.h"
#include "cpu/ops/temperature.h"

namespace hardmine::cpu {
namespace {

std::tuple<Tensor, Tensor, Tensor> compute(const TwoSumsRule& rule, const LabeledInputs& inputs,
                                           const NeededGradients& needed) {
  return loss_with_gradients(inputs, needed,
                             [&]<class T>(const LabeledMatrix<T>* refs, T* loss, T* grad_x, T* grad_refs) {
                               return two_sums_loss<T>(rule, inputs.anchors<T>(), refs, inputs.depth, TorchThreadPool(),
                                                       {.loss = loss, .grad_x = grad_x, .grad_refs = grad_refs});
                             });
}

std::tuple<Tensor, Tensor, Tensor> multi_similarity_loss_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, int64_t similarity, double alpha, double beta,
    double base, bool is_mean, bool need_embeddings, bool need_ref_embeddings) {
  const TwoSumsRule rule{.similarity = enum_from_code("similarity", similarity, Similarity::kDot),
                         .positive_scale = scale_in_range("alpha", alpha),
                         .negative_scale = scale_in_range("beta", beta),
                         .base = base,
                         .is_mean = is_mean};
  check(std::isfinite(base), "base must be finite, got " + std::to_string(base));
  return compute(rule, LabeledInputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids),
                 {.rows = need_embeddings, .columns = need_ref_embeddings});
}

std::tuple<Tensor, Tensor, Tensor> circle_loss_cpu(Tensor embeddings, Tensor labels,
                                                   std::optional<Tensor> ref_embeddings,
                                                   std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                   std::optional<Tensor> ref_ids, double m, double gamma, bool is_mean,
                                                   bool need_embeddings, bool need_ref_embeddings) {
  const double scale = scale_in_range("gamma", gamma);
  check(m >= -1 && m <= 1, "m must be a number from -1 to 1, got " + std::to_string(m));
  const TwoSumsRule rule{
      .is_circle = true, .positive_scale = scale, .negative_scale = scale, .margin = m, .is_mean = is_mean};
  return compute(rule, LabeledInputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids),
                 {.rows = need_embeddings, .columns = need_ref_embeddings});
}

struct MultiSimilarityRule;
struct CircleRule;

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&multi_similarity_loss_cpu>(m, "multi_similarity_loss");
  implement<&scaled_gradients<MultiSimilarityRule>>(m, "multi_similarity_loss_backward");
  implement<&circle_loss_cpu>(m, "circle_loss");
  implement<&scaled_gradients<CircleRule>>(m, "circle_loss_backward");
}

}  // namespace hardmine::cpu
