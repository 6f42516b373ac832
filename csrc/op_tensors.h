// The tensors of the ops as checked, contiguous arrays, the same on every device: inputs, outputs, and what backward
// passes are given.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include "core/losses/loss_reduction.h"
#include "core/random.h"
#include "core/views.h"
#include "op_arguments.h"

namespace hardmine {

// Embeddings in the type that the engine reads: on CUDA their own, on the CPU the compute type.
inline Tensor embedding_array(const Tensor& embeddings) {
#ifdef HARDMINE_FOR_CUDA
  return contiguous_array(embeddings);
#else
  return as_array(embeddings, compute_type(embeddings));
#endif
}
inline std::optional<Tensor> embedding_array(const std::optional<Tensor>& embeddings) {
  return embeddings ? std::optional(embedding_array(*embeddings)) : std::nullopt;
}

// The loss of embeddings: [], or [rows] without reduction.
inline Tensor new_loss(const Tensor& embeddings, Reduction reduction) {
  const ScalarType type = compute_type(embeddings);
  return reduction == Reduction::kNone ? new_array(embeddings, {embeddings.size(0)}, type)
                                       : new_array(embeddings, {}, type);
}

// The inputs of an op on labeled embeddings.
struct LabeledInputs {
  Tensor embeddings, labels;
  std::optional<Tensor> ref_embeddings, ref_labels, ids, ref_ids;
  ScalarType type;  // of similarities and losses
  int64_t count, depth;

  LabeledInputs(const Tensor& x, const Tensor& y, const std::optional<Tensor>& ref_x,
                const std::optional<Tensor>& ref_y, const std::optional<Tensor>& x_ids,
                const std::optional<Tensor>& ref_x_ids)
      : type(compute_type(x)) {
    check_labeled(x, y, ref_x, ref_y, x_ids, ref_x_ids);
    embeddings = embedding_array(x);
    labels = contiguous_array(y);
    ref_embeddings = embedding_array(ref_x);
    ref_labels = contiguous_array(ref_y);
    ids = contiguous_array(x_ids);
    ref_ids = contiguous_array(ref_x_ids);
    count = x.size(0);
    depth = x.size(1);
  }

  template <class Scalar>
  LabeledMatrix<Scalar> anchors() const {
    return {data<Scalar>(embeddings), data<int64_t>(labels), count, data<int64_t>(ids)};
  }
  // Empty without refs.
  template <class Scalar>
  LabeledMatrix<Scalar> refs() const {
    if (!ref_embeddings) return {};
    return {data<Scalar>(*ref_embeddings), data<int64_t>(*ref_labels), ref_embeddings->size(0), data<int64_t>(ref_ids)};
  }

  Tensor new_vector(ScalarType of) const { return new_array(embeddings, {count}, of); }
  Tensor new_loss(Reduction reduction) const { return hardmine::new_loss(embeddings, reduction); }
};

// The numbers that random selections are picked by; see csrc/library.cpp.
struct RandomTensor {
  Tensor array;
  RandomNumbers numbers;

  RandomTensor(const SelectionRule& rule, const std::optional<Tensor>& random, const LabeledInputs& inputs) {
    const bool positive = rule.positive == Positive::kRandom, negative = rule.negative == Negative::kRandom;
    array = checked_random(random, positive + negative, inputs.count, inputs.labels);
    if (positive) numbers.positive = data<double>(array);
    if (negative) numbers.negative = data<double>(array) + (positive ? inputs.count : 0);
  }
};

// The gradient that arrives at a loss: [], or [count] without reduction.
inline Tensor checked_loss_gradient(const Tensor& grad_loss, const Tensor& embeddings, ScalarType type, bool is_reduced,
                                    int64_t count) {
  check_loss_gradient(grad_loss, embeddings, type, is_reduced ? 1 : count);
  return contiguous_array(grad_loss);
}

// The gradient of a similarity that a loss returns; none if nothing was computed from it.
inline std::optional<Tensor> checked_vector(const char* name, const std::optional<Tensor>& t, const Tensor& rows,
                                            ScalarType type) {
  return t ? std::optional(checked_vector(name, *t, rows, type)) : std::nullopt;
}

// The gradients that an op returns, in the type of the arrays that the engine reads. One that is not needed is empty.
struct GradientTensors {
  Tensor x, refs;
  RowRange x_rows;  // those of the embeddings that x is the gradient of

  GradientTensors(const Tensor& rows, const std::optional<Tensor>& columns, const NeededGradients& needed)
      : x(new_gradient(needed.rows, rows)),
        refs(columns ? new_gradient(needed.columns, *columns) : new_gradient(false, rows)),
        x_rows{0, rows.size(0)} {}
  // Of some rows, without refs.
  GradientTensors(const Tensor& rows, const RowRange& range)
      : x(new_array(rows, {range.count, rows.size(1)}, rows.scalar_type())),
        refs(new_gradient(false, rows)),
        x_rows(range) {}

  // Null if not needed.
  template <class Scalar>
  Scalar* x_data() const {
    return x.dim() == 2 ? mutable_data<Scalar>(x) : nullptr;
  }
  template <class Scalar>
  Scalar* refs_data() const {
    return refs.dim() == 2 ? mutable_data<Scalar>(refs) : nullptr;
  }

  // On the CPU.
  template <class T>
  void fill_nan() const {
    for (const Tensor& gradient : {x, refs})
      std::fill_n(mutable_data<T>(gradient), gradient.numel(), std::numeric_limits<T>::quiet_NaN());
  }

  std::tuple<Tensor, Tensor> as(ScalarType type) const { return {as_array(x, type), as_array(refs, type)}; }

 private:
  static Tensor new_gradient(bool needed, const Tensor& rows) {
    return needed ? new_array(rows, {rows.size(0), rows.size(1)}, rows.scalar_type())
                  : new_array(rows, {0}, rows.scalar_type());
  }
};

// The inputs of an op that only passes on gradients, and the gradients that it returns.
struct BackwardInputs {
  ScalarType type;  // of similarities and losses
  Tensor embeddings;
  std::optional<Tensor> ref_embeddings;
  GradientTensors gradients;

  BackwardInputs(const Tensor& x, const std::optional<Tensor>& refs, const NeededGradients& needed)
      : type(checked_type(x, refs)),
        embeddings(embedding_array(x)),
        ref_embeddings(embedding_array(refs)),
        gradients(embeddings, ref_embeddings, needed) {}
  // Of some rows, without refs.
  BackwardInputs(const Tensor& x, int64_t first_row, int64_t num_rows)
      : type(checked_type(x, std::nullopt)),
        embeddings(embedding_array(x)),
        gradients(embeddings, checked_range(first_row, num_rows, x)) {}

  int64_t count() const { return embeddings.size(0); }
  Tensor new_vector() const { return new_array(embeddings, {count()}, type); }
  template <class Scalar>
  MatrixPair<Scalar> matrices() const {
    return {.x = data<Scalar>(embeddings),
            .count = count(),
            .refs = data<Scalar>(ref_embeddings),
            .ref_count = ref_embeddings ? ref_embeddings->size(0) : 0,
            .depth = embeddings.size(1)};
  }

 private:
  static ScalarType checked_type(const Tensor& x, const std::optional<Tensor>& refs) {
    check_matrix("embeddings", x, -1);
    if (refs) check_refs("ref_embeddings", *refs, "embeddings", x);
    return compute_type(x);
  }
};

// The indices of a selection, and per pair its similarity or the gradient of that. A selection has an entry per anchor,
// or in the list form, an entry per anchor and positive.
struct SelectionTensors {
  Tensor positive_index, negative_index, positive, negative;
  std::optional<Tensor> anchor_index;  // of the list form, else none: entry i is that of anchor i

  // The outputs of a selection, and of one whose words are merged.
  explicit SelectionTensors(const Tensor& words)
      : positive_index(new_array(words, {words.size(2)}, ScalarType::Long)),
        negative_index(new_array(words, {words.size(2)}, ScalarType::Long)),
        positive(new_array(words, {words.size(2)}, type_of_words(words))),
        negative(new_array(words, {words.size(2)}, type_of_words(words))) {}
  explicit SelectionTensors(const LabeledInputs& inputs)
      : positive_index(inputs.new_vector(ScalarType::Long)),
        negative_index(inputs.new_vector(ScalarType::Long)),
        positive(inputs.new_vector(inputs.type)),
        negative(inputs.new_vector(inputs.type)) {}

  // What a backward op is given. The names are those of the arguments `p` and `n`.
  SelectionTensors(const Tensor& p_index, const Tensor& n_index, const char* p_name, const Tensor& p,
                   const char* n_name, const Tensor& n, const BackwardInputs& inputs)
      : positive_index(checked_vector("positive_index", p_index, inputs.embeddings, ScalarType::Long)),
        negative_index(checked_vector("negative_index", n_index, inputs.embeddings, ScalarType::Long)),
        positive(checked_vector(p_name, p, inputs.embeddings, inputs.type)),
        negative(checked_vector(n_name, n, inputs.embeddings, inputs.type)) {}

  // The same of the list form: outputs, and what a backward op is given.
  SelectionTensors(int64_t num_pairs, const LabeledInputs& inputs)
      : positive_index(new_array(inputs.embeddings, {num_pairs}, ScalarType::Long)),
        negative_index(new_array(inputs.embeddings, {num_pairs}, ScalarType::Long)),
        positive(new_array(inputs.embeddings, {num_pairs}, inputs.type)),
        negative(new_array(inputs.embeddings, {num_pairs}, inputs.type)),
        anchor_index(new_array(inputs.embeddings, {num_pairs}, ScalarType::Long)) {}
  SelectionTensors(const Tensor& a_index, const Tensor& p_index, const Tensor& n_index, const char* p_name,
                   const Tensor& p, const char* n_name, const Tensor& n, const BackwardInputs& inputs)
      : positive_index(checked_vector("positive_index", p_index, checked_list(a_index, inputs), ScalarType::Long)),
        negative_index(checked_vector("negative_index", n_index, a_index, ScalarType::Long)),
        positive(checked_vector(p_name, p, a_index, inputs.type)),
        negative(checked_vector(n_name, n, a_index, inputs.type)),
        anchor_index(contiguous_array(a_index)) {}

  int64_t count() const { return positive_index.size(0); }

  template <class T>
  SelectionOut<T> out() const {
    return {.positive_index = mutable_data<int64_t>(positive_index),
            .negative_index = mutable_data<int64_t>(negative_index),
            .positive_similarity = mutable_data<T>(positive),
            .negative_similarity = mutable_data<T>(negative)};
  }
  template <class T>
  SelectedPairs<T> pairs() const {
    return {.positive_index = data<int64_t>(positive_index),
            .negative_index = data<int64_t>(negative_index),
            .positive_similarity = data<T>(positive),
            .negative_similarity = data<T>(negative),
            .count = count()};
  }

 private:
  static const Tensor& checked_list(const Tensor& anchors, const BackwardInputs& inputs) {
    check(anchors.dim() == 1, "anchor_index must be [P]");
    check_vector("anchor_index", anchors, anchors.size(0), ScalarType::Long);
    check_same_device("anchor_index", anchors, inputs.embeddings);
    return anchors;
  }
};

// The words of a part of a selection, to be filled. See csrc/library.cpp.
inline Tensor part_words(const SelectionRule& rule, const LabeledInputs& inputs, bool need_negatives, int64_t part,
                         int64_t num_parts) {
  check(rule.positive != Positive::kRandom && rule.negative != Negative::kRandom,
        "positive and negative must not be random: parts share no random selection");
  check_part(part, num_parts);
  const int64_t selections = need_negatives ? part_selections(rule) : 1;
  return new_array(inputs.embeddings, {words_of(inputs.type), selections, inputs.count}, ScalarType::Long);
}

// What a selection among one block of refs returns and is given in addition; none for all refs. See SelectionOut.
struct SelectionBlock {
  std::optional<Tensor> positive_key, negative_key, given_positive_key;

  SelectionBlock() = default;
  SelectionBlock(const std::optional<Tensor>& given, const LabeledInputs& inputs)
      : positive_key(inputs.new_vector(inputs.type)),
        negative_key(inputs.new_vector(inputs.type)),
        given_positive_key(checked_vector("positive_key", given, inputs.embeddings, inputs.type)) {}

  template <class T>
  SelectionOut<T> out(const SelectionTensors& tensors) const {
    SelectionOut<T> selection = tensors.out<T>();
    if (positive_key) selection.positive_key = mutable_data<T>(*positive_key);
    if (negative_key) selection.negative_key = mutable_data<T>(*negative_key);
    selection.given_positive_key = data<T>(given_positive_key);
    return selection;
  }
};

// The gradients that arrive at the loss and the similarities of a triplet loss.
struct SelectionGradients {
  Tensor loss;
  std::optional<Tensor> positive, negative;  // [count]; none: zeros

  SelectionGradients(const LossRule& rule, const Tensor& grad_loss, const std::optional<Tensor>& grad_positive,
                     const std::optional<Tensor>& grad_negative, const SelectionTensors& selected,
                     const BackwardInputs& inputs)
      : loss(checked_loss_gradient(grad_loss, inputs.embeddings, inputs.type, rule.reduction != Reduction::kNone,
                                   selected.count())),
        positive(checked_vector("grad_positive", grad_positive, selected.positive, inputs.type)),
        negative(checked_vector("grad_negative", grad_negative, selected.positive, inputs.type)) {}
};

// The outputs of the nearest neighbors, and their inputs.
struct NeighborTensors {
  ScalarType type;
  Tensor queries;
  std::optional<Tensor> refs, ids, ref_ids;
  Tensor similarity, index;  // [queries, k]

  NeighborTensors(const Tensor& x, const std::optional<Tensor>& y, const std::optional<Tensor>& x_ids,
                  const std::optional<Tensor>& y_ids, int64_t k, bool exclude_self)
      : type(compute_type(x)) {
    check_neighbors(x, y, x_ids, y_ids, k, exclude_self);
    queries = embedding_array(x);
    refs = embedding_array(y);
    ids = contiguous_array(x_ids);
    ref_ids = contiguous_array(y_ids);
    similarity = new_array(queries, {x.size(0), k}, type);
    index = new_array(queries, {x.size(0), k}, ScalarType::Long);
  }

  template <class Scalar>
  Matrix<Scalar> query_matrix() const {
    return {data<Scalar>(queries), queries.size(0), data<int64_t>(ids)};
  }
  // Empty without refs.
  template <class Scalar>
  Matrix<Scalar> ref_matrix() const {
    if (!refs) return {};
    return {data<Scalar>(*refs), refs->size(0), data<int64_t>(ref_ids)};
  }
};

// Pairs and the gradients that arrive at their measures, [count, partners] each.
struct PairTensors {
  Tensor index, gradient;
  std::optional<Tensor> left = std::nullopt;  // [count]; none: entry i is of row i of the embeddings

  template <class T>
  PairList<T> list() const {
    return {.left = data<int64_t>(left),
            .right = data<int64_t>(index),
            .gradient = data<T>(gradient),
            .count = index.size(0),
            .partners = index.size(1)};
  }
};

// The pairs of nearest neighbors, from the arguments of the backward op.
inline PairTensors checked_neighbors(const Tensor& index, const Tensor& grad_similarity, const BackwardInputs& inputs) {
  check_pairs("index", index, inputs.count(), ScalarType::Long);
  check_pairs("grad_similarity", grad_similarity, inputs.count(), inputs.type);
  check_same_device("index", index, inputs.embeddings);
  check_same_device("grad_similarity", grad_similarity, inputs.embeddings);
  check(grad_similarity.size(1) == index.size(1), "grad_similarity must have the shape of index");
  return {contiguous_array(index), contiguous_array(grad_similarity)};
}

}  // namespace hardmine
