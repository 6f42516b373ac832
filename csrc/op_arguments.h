// Checks of what ops are given, the same on every device.
#pragma once

#include <optional>
#include <string>

#include "core/candidate.h"
#include "core/losses/batch_all.h"
#include "torch_bridge.h"

namespace hardmine {

// Refs are rows like those of `x`, which were checked before.
inline void check_refs(const char* name, const Tensor& refs, const char* x_name, const Tensor& x) {
  check_matrix(name, refs, x.size(1));
  check_same_device(name, refs, x);
  if (refs.scalar_type() != x.scalar_type()) fail(std::string(name) + " must have the dtype of " + x_name);
}

inline void check_labels(const char* name, const Tensor& labels, const Tensor& rows) {
  check_vector(name, labels, rows.size(0), ScalarType::Long);
  check_same_device(name, labels, rows);
}

// Optional ids of rows and, together with them, of refs.
inline void check_ids(const std::optional<Tensor>& ids, const Tensor& rows, const std::optional<Tensor>& ref_ids,
                      const std::optional<Tensor>& refs) {
  check(refs || !ref_ids, "ref_ids must be None without refs");
  check(!refs || ids.has_value() == ref_ids.has_value(), "ids and ref_ids must be given together");
  if (ids) check_labels("ids", *ids, rows);
  if (ref_ids) check_labels("ref_ids", *ref_ids, *refs);
}

// Embeddings [count, depth] with a label each, and refs likewise where there are any.
inline void check_labeled(const Tensor& x, const Tensor& labels, const std::optional<Tensor>& refs,
                          const std::optional<Tensor>& ref_labels, const std::optional<Tensor>& ids,
                          const std::optional<Tensor>& ref_ids) {
  check_matrix("embeddings", x, -1);
  check_labels("labels", labels, x);
  check(refs.has_value() == ref_labels.has_value(), "ref_embeddings and ref_labels must be given together");
  if (refs) {
    check_refs("ref_embeddings", *refs, "embeddings", x);
    check_labels("ref_labels", *ref_labels, *refs);
  }
  check_ids(ids, x, ref_ids, refs);
}

inline void check_neighbors(const Tensor& queries, const std::optional<Tensor>& refs, const std::optional<Tensor>& ids,
                            const std::optional<Tensor>& ref_ids, int64_t k, bool exclude_self) {
  check_matrix("queries", queries, -1);
  if (refs) {
    check_refs("refs", *refs, "queries", queries);
    check(!exclude_self, "exclude_self must be false with refs");
  }
  check_ids(ids, queries, ref_ids, refs);
  if (k < 1 || k > kMaxNeighbors)
    fail("k must be from 1 to " + std::to_string(kMaxNeighbors) + ", got " + std::to_string(k));
}

// A number for each row of `rows`, contiguous.
inline Tensor checked_vector(const char* name, const Tensor& t, const Tensor& rows, ScalarType type) {
  check_vector(name, t, rows.size(0), type);
  check_same_device(name, t, rows);
  return contiguous_array(t);
}

inline RowRange checked_range(int64_t first_row, int64_t num_rows, const Tensor& embeddings) {
  if (first_row < 0 || num_rows < 0 || first_row > embeddings.size(0) - num_rows)
    fail("first_row and num_rows must be rows of embeddings, " + shape_of(embeddings) + ", got " +
         std::to_string(first_row) + " and " + std::to_string(num_rows));
  return {first_row, num_rows};
}

inline void check_part(int64_t part, int64_t num_parts) {
  if (part < 0 || part >= num_parts)
    fail("part must be from 0 to num_parts - 1 = " + std::to_string(num_parts - 1) + ", got " + std::to_string(part));
}

// Words of candidates [words][selections][count] int64 (core/candidate_words.h): one word per float key, two per
// double.
inline int64_t words_of(ScalarType type) { return type == ScalarType::Double ? 2 : 1; }
inline ScalarType type_of_words(const Tensor& words) {
  return words.size(0) == words_of(ScalarType::Double) ? ScalarType::Double : ScalarType::Float;
}
inline Tensor checked_words(const char* name, const Tensor& words, int64_t selections) {
  if (!is_here(words) || words.scalar_type() != ScalarType::Long || words.dim() != 3 || words.size(0) < 1 ||
      words.size(0) > 2 || words.size(1) != selections)
    fail(std::string(name) + " must be int64 [1 or 2, " + std::to_string(selections) + ", B], got " + shape_of(words));
  return contiguous_array(words);
}
// Those of selections among `embeddings`.
inline Tensor checked_words(const char* name, const Tensor& words, int64_t selections, const Tensor& embeddings) {
  const Tensor checked = checked_words(name, words, selections);
  if (words.size(2) != embeddings.size(0) || type_of_words(words) != compute_type(embeddings))
    fail(std::string(name) + " must be those of embeddings, got " + shape_of(words));
  check_same_device(name, words, embeddings);
  return checked;
}

// A table of margins and the rows of the classes of samples and refs in it, or none of these.
struct MarginTensors {
  std::optional<Tensor> margin, row, ref_row;

  MarginTensors(const std::optional<Tensor>& table, const std::optional<Tensor>& rows,
                const std::optional<Tensor>& ref_rows, const Tensor& embeddings, const std::optional<Tensor>& refs,
                ScalarType type) {
    check(table.has_value() == rows.has_value(), "margin_table and table_row must be given together");
    check((table && refs) == ref_rows.has_value(), "ref_table_row must be given with margin_table and refs only");
    if (!table) return;
    check_matrix("margin_table", *table, -1);
    check_matrix("margin_table", *table, table->size(0));
    check_same_device("margin_table", *table, embeddings);
    row = checked_vector("table_row", *rows, embeddings, ScalarType::Long);
    if (refs) ref_row = checked_vector("ref_table_row", *ref_rows, *refs, ScalarType::Long);
    margin = as_array(*table, type);
  }

  template <class T>
  MarginTable<T> table() const {
    if (!margin) return {};
    return {data<T>(*margin), data<int64_t>(*row), margin->size(0), data<int64_t>(ref_row)};
  }
};

// What the batch-all loss returns. A gradient that is not needed is empty.
struct BatchAllTensors {
  Tensor loss, grad_x, grad_refs, active, total;

  BatchAllTensors(const Tensor& embeddings, const Tensor& labels, const std::optional<Tensor>& refs, ScalarType type,
                  bool need_embeddings, bool need_ref_embeddings)
      : loss(new_array(embeddings, {}, type)),
        grad_x(gradient(embeddings, type, need_embeddings)),
        grad_refs(gradient(refs ? *refs : embeddings, type, refs && need_ref_embeddings)),
        active(new_array(labels, {}, ScalarType::Long)),
        total(new_array(labels, {}, ScalarType::Long)) {}

 private:
  static Tensor gradient(const Tensor& rows, ScalarType type, bool is_needed) {
    return is_needed ? new_array(rows, {rows.size(0), rows.size(1)}, type) : new_array(rows, {0}, type);
  }
};

// The gradient that the forward pass left, and the number that it is multiplied with.
inline void check_scaled_gradient(const Tensor& grad_loss, const char* name, const Tensor& gradient) {
  const ScalarType type = gradient.scalar_type();
  check(is_here(grad_loss) && grad_loss.numel() == 1 && grad_loss.scalar_type() == type,
        std::string("grad_loss must be one number of the type of ") + name + ", got " + shape_of(grad_loss));
  check(type == ScalarType::Float || type == ScalarType::Double, std::string(name) + " must be float32 or float64");
  check_matrix(name, gradient, -1);
  check_same_device("grad_loss", grad_loss, gradient);
}

}  // namespace hardmine
