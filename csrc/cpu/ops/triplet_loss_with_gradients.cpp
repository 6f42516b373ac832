// A small batch spends more time between its ops than in them: one op computes the loss and its gradients.

#include <vector>

#include "cpu/engine/buffer.h"
#include "cpu/engine/pair_gradient.h"
#include "cpu/engine/select_triplets.h"
#include "cpu/ops/loss_with_gradients.h"

namespace hardmine::cpu {
namespace {

// The selection of all anchors, which no caller sees.
template <class T>
struct SelectionBuffers {
  Buffer<int64_t> positive_index, negative_index;
  Buffer<T> positive, negative;

  explicit SelectionBuffers(int64_t count)
      : positive_index(count), negative_index(count), positive(count), negative(count) {}
  SelectionOut<T> out() const {
    return {.positive_index = positive_index.get(),
            .negative_index = negative_index.get(),
            .positive_similarity = positive.get(),
            .negative_similarity = negative.get()};
  }
  SelectedPairs<T> pairs(int64_t count) const {
    return {.positive_index = positive_index.get(),
            .negative_index = negative_index.get(),
            .positive_similarity = positive.get(),
            .negative_similarity = negative.get(),
            .count = count};
  }
};

// The loss, and its gradients unless null.
template <class T>
void reduce_with_gradients(const LossRule& rule, const PairMeasure& measure, const SelectedPairs<T>& pairs,
                           const MatrixPair<T>& rows, T* loss, T* grad_x, T* grad_refs) {
  reduce_loss<T>(rule.term, rule.reduction, pairs, loss);
  if (!grad_x && !grad_refs) return;
  const int64_t count = pairs.count;
  std::vector<T> positive(count), negative(count), gradient(2 * count);
  std::vector<int64_t> index(2 * count);
  const T one = T(1);
  reduce_loss_backward<T>(rule.term, rule.reduction, pairs, &one, positive.data(), negative.data());
  for (int64_t i = 0; i < count; ++i) {
    index[2 * i] = pairs.positive_index[i];
    index[2 * i + 1] = pairs.negative_index[i];
    gradient[2 * i] = positive[i];
    gradient[2 * i + 1] = negative[i];
  }
  const PairList<T> list{
      .left = nullptr, .right = index.data(), .gradient = gradient.data(), .count = count, .partners = 2};
  pair_gradient<T>(measure, rows, list, TorchThreadPool(), {0, rows.count}, grad_x, grad_refs);
}

std::tuple<Tensor, Tensor, Tensor> triplet_loss_with_gradients_cpu(
    Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings, std::optional<Tensor> ref_labels,
    std::optional<Tensor> ids, std::optional<Tensor> ref_ids, std::optional<Tensor> random, int64_t similarity,
    int64_t positive, int64_t negative, int64_t semihard_fallback, int64_t tie, double duplicate_threshold,
    double semihard_margin, bool allow_tf32, int64_t term, int64_t hard_rule, bool separate_means, double temperature,
    double margin, double lam, double hard_cutoff, double min_similarity, int64_t reduction, bool need_embeddings,
    bool need_ref_embeddings) {
  const SelectionRule selection = selection_rule(similarity, positive, negative, semihard_fallback, tie,
                                                 duplicate_threshold, semihard_margin, allow_tf32);
  const LossRule rule =
      loss_rule(term, hard_rule, separate_means, temperature, margin, lam, hard_cutoff, min_similarity, reduction);
  check(rule.reduction != Reduction::kNone, "reduction must not be 'none'");
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const RandomTensor uniforms(selection, random, inputs);
  return loss_with_gradients(inputs, {.rows = need_embeddings, .columns = need_ref_embeddings},
                             [&]<class T>(const LabeledMatrix<T>* refs, T* loss, T* grad_x, T* grad_refs) {
                               const SelectionBuffers<T> selected(inputs.count);
                               if (!select_triplets<T>(selection, inputs.anchors<T>(), refs, inputs.depth,
                                                       uniforms.numbers, TorchThreadPool(), selected.out()))
                                 return false;
                               reduce_with_gradients<T>(rule, measure_of(selection.similarity),
                                                        selected.pairs(inputs.count),
                                                        {.x = data<T>(inputs.embeddings),
                                                         .count = inputs.count,
                                                         .refs = refs ? refs->x : nullptr,
                                                         .ref_count = refs ? refs->count : 0,
                                                         .depth = inputs.depth},
                                                        loss, grad_x, grad_refs);
                               return true;
                             });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&triplet_loss_with_gradients_cpu>(m, "triplet_loss_with_gradients");
  implement<&scaled_gradients<LossRule>>(m, "triplet_loss_with_gradients_backward");
}

}  // namespace hardmine::cpu
