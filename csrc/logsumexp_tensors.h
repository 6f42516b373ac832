// The tensors of the log-sum-exp ops as checked arrays, the same on every device.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "core/losses/logsumexp.h"
#include "op_tensors.h"

namespace hardmine {

// The temperature: float64 [], on the device of embeddings, so that nobody waits for its value.
inline Tensor checked_temperature(const Tensor& temperature, const Tensor& embeddings) {
  if (!is_here(temperature) || temperature.scalar_type() != ScalarType::Double || temperature.dim() != 0)
    fail(std::string("temperature must be a ") + kHere + " tensor [] of float64, got " + shape_of(temperature));
  check_same_device("temperature", temperature, embeddings);
  return contiguous_array(temperature);
}

inline void check_of_columns(const LogSumExpRule& rule, const LabeledInputs& inputs) {
  check(!rule.of_columns || inputs.ref_embeddings.has_value(), "of_columns must be false without refs");
}

// The bounds of the anchors' pairs, [B].
inline std::optional<Tensor> checked_bound(const LogSumExpRule& rule, const std::optional<Tensor>& bound,
                                           const LabeledInputs& inputs) {
  check(!bound || (inputs.ref_embeddings && !rule.of_columns),
        "bound must be given with refs and without of_columns only");
  return checked_vector("bound", bound, inputs.embeddings, inputs.type);
}

// What the forward pass returns. What is not wanted is empty. A state [3, count] is shift, sum and mean_offset.
struct LogSumExpTensors {
  LogSumExpRule rule;
  std::optional<Tensor> bound;
  Tensor log_sum, column_log_sum, positive_similarity, state, column_state, positive_count;

  LogSumExpTensors(const LogSumExpRule& of, const LabeledInputs& inputs, const std::optional<Tensor>& bounds)
      : rule(of), bound(checked_bound(of, bounds, inputs)) {
    check_of_columns(rule, inputs);
    const int64_t count = inputs.count, columns = rule.of_columns ? inputs.ref_embeddings->size(0) : 0;
    const int64_t positives = rule.positives ? count : 0;
    log_sum = new_array(inputs.embeddings, {count}, inputs.type);
    column_log_sum = new_array(inputs.embeddings, {columns}, inputs.type);
    positive_similarity = new_array(inputs.embeddings, {positives}, inputs.type);
    state = new_array(inputs.embeddings, {3, count}, inputs.type);
    column_state = new_array(inputs.embeddings, {3, columns}, inputs.type);
    positive_count = new_array(inputs.embeddings, {positives}, ScalarType::Long);
  }

  template <class T>
  LogSumExpOut<T> out() const {
    return {.rows = state_of<T>(state),
            .columns = rule.of_columns ? state_of<T>(column_state) : LogSumExpState<T>{},
            .log_sum = mutable_data<T>(log_sum),
            .column_log_sum = rule.of_columns ? mutable_data<T>(column_log_sum) : nullptr,
            .positive_similarity = rule.positives ? mutable_data<T>(positive_similarity) : nullptr,
            .positive_count = rule.positives ? mutable_data<int64_t>(positive_count) : nullptr};
  }

  template <class T>
  const T* bound_data() const {
    return data<T>(bound);
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> all() const {
    return {log_sum, column_log_sum, positive_similarity, state, column_state, positive_count};
  }

 private:
  template <class T>
  static LogSumExpState<T> state_of(const Tensor& state) {
    T* first = mutable_data<T>(state);
    const int64_t count = state.size(1);
    return {.shift = first, .sum = first + count, .mean_offset = first + 2 * count};
  }
};

// What its backward pass is given.
struct LogSumExpSavedTensors {
  LogSumExpRule rule;
  Tensor grad_log_sum, state, column_state, positive_count;
  std::optional<Tensor> grad_column, grad_positive, bound;

  LogSumExpSavedTensors(const LogSumExpRule& of, const LabeledInputs& inputs, const Tensor& grad,
                        const std::optional<Tensor>& of_columns, const std::optional<Tensor>& of_positives,
                        const Tensor& row_state, const Tensor& ref_state, const Tensor& positives,
                        const std::optional<Tensor>& bounds)
      : rule(of),
        grad_log_sum(checked_vector("grad_log_sum", grad, inputs.embeddings, inputs.type)),
        state(checked_state("state", row_state, inputs.embeddings, inputs)),
        positive_count(positives),
        bound(checked_bound(of, bounds, inputs)) {
    check_of_columns(rule, inputs);
    check(of_columns.has_value() == rule.of_columns, "grad_column must be given with of_columns only");
    if (rule.of_columns) {
      grad_column = checked_vector("grad_column", *of_columns, *inputs.ref_embeddings, inputs.type);
      column_state = checked_state("column_state", ref_state, *inputs.ref_embeddings, inputs);
    }
    if (!of_positives) return;
    grad_positive = checked_vector("grad_positive", *of_positives, inputs.embeddings, inputs.type);
    positive_count = checked_vector("positive_count", positives, inputs.embeddings, ScalarType::Long);
  }

  template <class T>
  LogSumExpSaved<T> saved() const {
    LogSumExpSaved<T> out;
    out.rows = saved_state(data<T>(grad_log_sum), state);
    if (rule.of_columns) out.columns = saved_state(data<T>(*grad_column), column_state);
    out.bound = data<T>(bound);
    out.grad_positive = data<T>(grad_positive);
    if (grad_positive) out.positive_count = data<int64_t>(positive_count);
    return out;
  }

 private:
  static Tensor checked_state(const char* name, const Tensor& state, const Tensor& rows, const LabeledInputs& inputs) {
    if (!is_here(state) || state.scalar_type() != inputs.type || state.dim() != 2 || state.size(0) != 3 ||
        state.size(1) != rows.size(0))
      fail(std::string(name) + " must be [3, " + std::to_string(rows.size(0)) + "] of its op's type, got " +
           shape_of(state));
    check_same_device(name, state, rows);
    return contiguous_array(state);
  }
  template <class T>
  static SavedLogSumExp<T> saved_state(const T* gradient, const Tensor& state) {
    const T* first = data<T>(state);
    return {.gradient = gradient, .shift = first, .sum = first + state.size(1)};
  }
};

}  // namespace hardmine
