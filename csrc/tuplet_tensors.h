// The tensors of the tuplet losses as checked arrays, the same on every device.
#pragma once

#include <optional>
#include <tuple>

#include "op_tensors.h"

namespace hardmine {

// The words that parts of a tuplet loss are given; none if there are no selections.
inline std::optional<Tensor> checked_tuplet_words(const TupletRule& rule, const std::optional<Tensor>& words,
                                                  const LabeledInputs& inputs) {
  const int64_t selections = tuplet_selections(rule);
  check(words.has_value() == (selections > 0), "words must be given unless one shift and all positives are used");
  return words ? std::optional(checked_words("words", *words, selections, inputs.embeddings)) : std::nullopt;
}

// What the forward pass of a tuplet loss returns beside its loss.
struct TupletTensors {
  Tensor logsumexp, shift, sum, slope, positive_similarity, positive_index, positive_count;

  explicit TupletTensors(const LabeledInputs& inputs)
      : logsumexp(inputs.new_vector(inputs.type)),
        shift(inputs.new_vector(inputs.type)),
        sum(inputs.new_vector(inputs.type)),
        slope(inputs.new_vector(inputs.type)),
        positive_similarity(inputs.new_vector(inputs.type)),
        positive_index(inputs.new_vector(ScalarType::Long)),
        positive_count(inputs.new_vector(ScalarType::Long)) {}

  template <class T>
  TupletOut<T> out(const Tensor& loss) const {
    return {.loss = mutable_data<T>(loss),
            .logsumexp = mutable_data<T>(logsumexp),
            .shift = mutable_data<T>(shift),
            .sum = mutable_data<T>(sum),
            .slope = mutable_data<T>(slope),
            .positive_similarity = mutable_data<T>(positive_similarity),
            .positive_index = mutable_data<int64_t>(positive_index),
            .positive_count = mutable_data<int64_t>(positive_count)};
  }
};

// The log-sum-exps over all blocks of refs, which a second pass among one block is given.
struct TupletBlockTensors {
  std::optional<Tensor> shift, sum;

  TupletBlockTensors() = default;
  TupletBlockTensors(const Tensor& all_shift, const Tensor& all_sum, const LabeledInputs& inputs)
      : shift(checked_vector("shift", all_shift, inputs.embeddings, inputs.type)),
        sum(checked_vector("sum", all_sum, inputs.embeddings, inputs.type)) {}

  template <class T>
  TupletOut<T> out(const TupletTensors& tensors, const Tensor& term) const {
    TupletOut<T> outputs = tensors.out<T>(term);
    outputs.block = {.only_logsumexp = !sum, .shift = data<T>(shift), .sum = data<T>(sum)};
    return outputs;
  }
};

// What its backward pass is given.
struct TupletSavedTensors {
  Tensor grad_loss, shift, sum, slope, positive_index, positive_count;

  TupletSavedTensors(const TupletRule& rule, const LabeledInputs& inputs, const Tensor& grad_loss, const Tensor& shift,
                     const Tensor& sum, const Tensor& slope, const Tensor& positive_index, const Tensor& positive_count)
      : grad_loss(checked_loss_gradient(grad_loss, inputs.embeddings, inputs.type, rule.reduction != Reduction::kNone,
                                        inputs.count)),
        shift(checked_vector("shift", shift, inputs.embeddings, inputs.type)),
        sum(checked_vector("sum", sum, inputs.embeddings, inputs.type)),
        slope(checked_vector("slope", slope, inputs.embeddings, inputs.type)),
        positive_index(checked_vector("positive_index", positive_index, inputs.embeddings, ScalarType::Long)),
        positive_count(checked_vector("positive_count", positive_count, inputs.embeddings, ScalarType::Long)) {}

  template <class T>
  TupletSaved<T> saved() const {
    return {.grad_loss = data<T>(grad_loss),
            .shift = data<T>(shift),
            .sum = data<T>(sum),
            .slope = data<T>(slope),
            .positive_index = data<int64_t>(positive_index),
            .positive_count = data<int64_t>(positive_count)};
  }
};

}  // namespace hardmine
