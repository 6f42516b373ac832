#include "tuplet.h"

#include "torch_bridge.h"

namespace hardmine::cuda {
namespace {

using TupletTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Calls body(Type<Arithmetic>{}, anchors, refs), refs a pointer, null where there are none.
template <class Body>
void with_tuplets(const TupletRule& rule, const LabelledInputs& inputs, const Body& body) {
  with_arithmetic(inputs.embeddings.scalar_type(), rule.similarity == Similarity::kEuclidean, rule.allow_tf32,
                  [&](auto arithmetic, auto scalar) {
                    using Scalar = typename decltype(scalar)::type;
                    LabelledRows<Scalar> refs{};
                    if (inputs.ref_embeddings) refs = inputs.refs<Scalar>();
                    body(arithmetic, inputs.anchors<Scalar>(), inputs.ref_embeddings ? &refs : nullptr);
                  });
}

TupletTensors tuplet_loss_cuda(Tensor embeddings, Tensor labels, std::optional<Tensor> ref_embeddings,
                               std::optional<Tensor> ref_labels, std::vector<int64_t> modes,
                               std::vector<double> numbers) {
  const TupletRule rule = tuplet_rule(modes, numbers);
  const LabelledInputs inputs(embeddings, labels, ref_embeddings, ref_labels);
  const auto new_values = [&] { return new_array(inputs.embeddings, {inputs.count}, inputs.type); };
  const auto new_indices = [&] { return new_array(inputs.labels, {inputs.count}, ScalarType::Long); };
  const Tensor loss = rule.reduction == Reduction::kNone ? new_values() : new_array(inputs.embeddings, {}, inputs.type);
  const Tensor level = new_values(), positive_similarity = new_values(), shift = new_values(), sum = new_values(),
               slope = new_values(), positive_index = new_indices(), positive_count = new_indices();
  OpContext context(inputs.embeddings);
  with_tuplets(rule, inputs, [&](auto arithmetic, const auto& anchors, const auto* refs) {
    using Arithmetic = typename decltype(arithmetic)::type;
    using Number = typename Arithmetic::Number;
    const TupletOut<Number> out{mutable_data<Number>(loss),
                                mutable_data<Number>(level),
                                mutable_data<Number>(positive_similarity),
                                mutable_data<Number>(shift),
                                mutable_data<Number>(sum),
                                mutable_data<Number>(slope),
                                mutable_data<int64_t>(positive_index),
                                mutable_data<int64_t>(positive_count)};
    tuplet_loss<Arithmetic>(rule, anchors, refs, inputs.depth, out, context, context.stream());
  });
  return {loss, level, positive_similarity, shift, sum, slope, positive_index, positive_count};
}

std::tuple<Tensor, Tensor> tuplet_loss_backward_cuda(Tensor grad_loss, Tensor embeddings, Tensor labels,
                                                     std::optional<Tensor> ref_embeddings,
                                                     std::optional<Tensor> ref_labels, Tensor shift, Tensor sum,
                                                     Tensor slope, Tensor positive_index, Tensor positive_count,
                                                     std::vector<int64_t> modes, std::vector<double> numbers,
                                                     bool need_embeddings, bool need_ref_embeddings) {
  const TupletRule rule = tuplet_rule(modes, numbers);
  const LabelledInputs inputs(embeddings, labels, ref_embeddings, ref_labels);
  const auto checked = [&](const char* name, const Tensor& t, ScalarType type) {
    check_vector(name, t, inputs.count, type);
    check_same_device(name, t, inputs.embeddings);
    return contiguous_array(t);
  };
  const Tensor shifts = checked("shift", shift, inputs.type), sums = checked("sum", sum, inputs.type),
               slopes = checked("slope", slope, inputs.type),
               index = checked("positive_index", positive_index, ScalarType::Long),
               counts = checked("positive_count", positive_count, ScalarType::Long);
  check_loss_gradient(grad_loss, inputs.embeddings, inputs.type, rule.reduction == Reduction::kNone ? inputs.count : 1);
  const Tensor grad = contiguous_array(grad_loss);
  const GradientTensors tensors(embeddings, ref_embeddings, need_embeddings, need_ref_embeddings);
  OpContext context(inputs.embeddings);
  with_tuplets(rule, inputs, [&](auto arithmetic, const auto& anchors, const auto* refs) {
    using Arithmetic = typename decltype(arithmetic)::type;
    using Number = typename Arithmetic::Number;
    using Scalar = std::remove_const_t<std::remove_pointer_t<decltype(anchors.x)>>;
    const auto target = [](const Tensor& t) { return t.dim() == 2 ? mutable_data<Scalar>(t) : nullptr; };
    const TupletSaved<Number> saved{data<Number>(grad),   data<Number>(shifts), data<Number>(sums),
                                    data<Number>(slopes), data<int64_t>(index), data<int64_t>(counts)};
    tuplet_loss_gradient<Arithmetic>(rule, anchors, refs, inputs.depth, saved,
                                     GradientOut<Scalar>{target(tensors.grad_x), target(tensors.grad_refs)}, context,
                                     context.stream());
  });
  return {tensors.grad_x, tensors.grad_refs};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, HARDMINE_DISPATCH_KEY, m) {
  m.impl("tuplet_loss", TORCH_BOX(&tuplet_loss_cuda));
  m.impl("tuplet_loss_backward", TORCH_BOX(&tuplet_loss_backward_cuda));
}

}  // namespace hardmine::cuda
