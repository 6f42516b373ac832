#include "cpu/engine/tuplet_loss.h"

#include "cpu/ops/selection_tensors.h"
#include "tuplet_tensors.h"

namespace hardmine::cpu {
namespace {

using TupletOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The outputs of a forward pass that forward<T>(out) computes; it returns true if all rows are finite.
template <class Forward>
TupletOutputs tuplet_outputs(const TupletRule& rule, const LabeledInputs& inputs, const Forward& forward) {
  const TupletTensors t(inputs);
  const Tensor loss = inputs.new_loss(rule.reduction);
  const bool reduced = rule.reduction != Reduction::kNone;
  const Tensor term = reduced ? inputs.new_vector(inputs.type) : loss;
  dispatch(inputs.type, [&]<class T>() {
    const bool finite = forward.template operator()<T>(t.out<T>(term));
    if (!finite) {  // divergence is never hidden
      std::fill_n(mutable_data<T>(loss), loss.numel(), std::numeric_limits<T>::quiet_NaN());
    } else if (reduced) {
      *mutable_data<T>(loss) =
          reduce_tuplets(rule.reduction, data<T>(term), data<int64_t>(t.positive_count), inputs.count);
    }
  });
  return {loss, t.logsumexp, t.positive_similarity, t.shift, t.sum, t.slope, t.positive_index, t.positive_count};
}

TupletOutputs tuplet_loss_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                              std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                              std::optional<Tensor> ref_ids, int64_t similarity, int64_t positive, double temperature,
                              double duplicate_threshold, int64_t reduction, bool allow_tf32) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  return tuplet_outputs(rule, inputs, [&]<class T>(const TupletOut<T>& out) {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    return tuplet_forward<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth,
                             TorchThreadPool(), out);
  });
}

Tensor tuplet_loss_part_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ids, std::optional<Tensor> words,
                            int64_t similarity, int64_t positive, double temperature, bool allow_tf32, int64_t part,
                            int64_t num_parts) {
  constexpr double kNoLimit = std::numeric_limits<double>::infinity();
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, kNoLimit, 0, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, std::nullopt, std::nullopt, ids, std::nullopt);
  const std::optional<Tensor> merged = checked_tuplet_words(rule, words, inputs);
  check_part(part, num_parts);
  const Tensor sum = inputs.new_vector(ScalarType::Double);
  dispatch(inputs.type, [&]<class T>() {
    tuplet_part<T>(rule, inputs.anchors<T>(), inputs.depth, data<int64_t>(merged), {part, num_parts}, TorchThreadPool(),
                   mutable_data<double>(sum));
  });
  return sum;
}

TupletOutputs tuplet_loss_of_parts_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ids,
                                       std::optional<Tensor> words, Tensor sum, int64_t similarity, int64_t positive,
                                       double temperature, double duplicate_threshold, int64_t reduction,
                                       bool allow_tf32) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, std::nullopt, std::nullopt, ids, std::nullopt);
  const std::optional<Tensor> merged = checked_tuplet_words(rule, words, inputs);
  const Tensor sums = checked_vector("sum", sum, inputs.embeddings, ScalarType::Double);
  return tuplet_outputs(rule, inputs, [&]<class T>(const TupletOut<T>& out) {
    return tuplet_of_parts<T>(rule, inputs.anchors<T>(), inputs.depth, data<int64_t>(merged), data<double>(sums),
                              TorchThreadPool(), out);
  });
}

// The gradients from the pairs of a part, in the type of the arrays.
GradientTensors gradient_tensors(const TupletRule& rule, const LabeledInputs& inputs, const TupletSavedTensors& given,
                                 const PassPart& part, const NeededGradients& needed) {
  const GradientTensors gradients(inputs.embeddings, inputs.ref_embeddings, needed);
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    TupletSaved<T> saved = given.saved<T>();
    const std::vector<T> of_terms =
        tuplet_gradients(rule.reduction, saved.grad_loss, saved.positive_count, inputs.count);
    saved.grad_loss = of_terms.data();
    const bool finite =
        tuplet_backward<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr, inputs.depth, saved,
                           part, TorchThreadPool(), gradients.x_data<T>(), gradients.refs_data<T>());
    if (!finite) gradients.fill_nan<T>();
  });
  return gradients;
}

// One pass among a block of the refs. `term`: [count], the mean term of the block's positives.
TupletTensors tuplet_block(const TupletRule& rule, const LabeledInputs& inputs, const TupletBlockTensors& block,
                           const Tensor& term) {
  const TupletTensors t(inputs);
  dispatch(inputs.type, [&]<class T>() {
    const LabeledMatrix<T> refs = inputs.refs<T>();
    const bool finite = tuplet_forward<T>(rule, inputs.anchors<T>(), inputs.ref_embeddings ? &refs : nullptr,
                                          inputs.depth, TorchThreadPool(), block.out<T>(t, term));
    if (!finite) std::fill_n(mutable_data<T>(t.sum), inputs.count, std::numeric_limits<T>::quiet_NaN());
  });
  return t;
}

std::tuple<Tensor, Tensor> tuplet_logsumexp_cpu(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                                                std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                std::optional<Tensor> ref_ids, int64_t similarity, double temperature,
                                                bool allow_tf32) {
  const TupletRule rule = tuplet_block_rule(similarity, temperature, HUGE_VAL, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const TupletTensors t = tuplet_block(rule, inputs, {}, inputs.new_vector(inputs.type));
  return {t.shift, t.sum};
}

std::tuple<Tensor, Tensor, Tensor> tuplet_positives_cpu(Tensor embeddings, Tensor labels,
                                                        std::optional<Tensor> ref_embeddings,
                                                        std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                        std::optional<Tensor> ref_ids, Tensor shift, Tensor sum,
                                                        int64_t similarity, double temperature,
                                                        double duplicate_threshold, bool allow_tf32) {
  const TupletRule rule = tuplet_block_rule(similarity, temperature, duplicate_threshold, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const Tensor term = inputs.new_vector(inputs.type);
  const TupletTensors t = tuplet_block(rule, inputs, {shift, sum, inputs}, term);
  return {term, t.slope, t.positive_count};
}

std::tuple<Tensor, Tensor> tuplet_loss_backward_cpu(Tensor grad_loss, Tensor embeddings, Tensor labels,
                                                    std::optional<Tensor> ref_embeddings,
                                                    std::optional<Tensor> ref_labels, std::optional<Tensor> ids,
                                                    std::optional<Tensor> ref_ids, Tensor shift, Tensor sum,
                                                    Tensor slope, Tensor positive_index, Tensor positive_count,
                                                    int64_t similarity, int64_t positive, double temperature,
                                                    double duplicate_threshold, int64_t reduction, bool allow_tf32,
                                                    bool need_embeddings, bool need_ref_embeddings) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, ref_embeddings, ref_labels, ids, ref_ids);
  const TupletSavedTensors given(rule, inputs, grad_loss, shift, sum, slope, positive_index, positive_count);
  return gradient_tensors(rule, inputs, given, {}, {.rows = need_embeddings, .columns = need_ref_embeddings})
      .as(embeddings.scalar_type());
}

Tensor tuplet_loss_backward_part_cpu(Tensor grad_loss, Tensor embeddings, Tensor labels, std::optional<Tensor> ids,
                                     Tensor shift, Tensor sum, Tensor slope, Tensor positive_index,
                                     Tensor positive_count, int64_t similarity, int64_t positive, double temperature,
                                     double duplicate_threshold, int64_t reduction, bool allow_tf32, int64_t part,
                                     int64_t num_parts) {
  const TupletRule rule = tuplet_rule(similarity, positive, temperature, duplicate_threshold, reduction, allow_tf32);
  const LabeledInputs inputs(embeddings, labels, std::nullopt, std::nullopt, ids, std::nullopt);
  const TupletSavedTensors given(rule, inputs, grad_loss, shift, sum, slope, positive_index, positive_count);
  check_part(part, num_parts);
  return gradient_tensors(rule, inputs, given, {part, num_parts}, {.rows = true, .columns = false}).x;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CPU, m) {
  implement<&tuplet_loss_cpu>(m, "tuplet_loss");
  implement<&tuplet_logsumexp_cpu>(m, "tuplet_logsumexp");
  implement<&tuplet_positives_cpu>(m, "tuplet_positives");
  implement<&tuplet_loss_backward_cpu>(m, "tuplet_loss_backward");
  implement<&tuplet_loss_part_cpu>(m, "tuplet_loss_part");
  implement<&tuplet_loss_of_parts_cpu>(m, "tuplet_loss_of_parts");
  implement<&tuplet_loss_backward_part_cpu>(m, "tuplet_loss_backward_part");
}

}  // namespace hardmine::cpu
