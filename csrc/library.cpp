// Every op of hardmine, in one place. Shapes: embeddings [B, D], labels [B] int64, ref_embeddings [M, D], ref_labels
// [M] int64; triplets [T, 3], int64 rows of embeddings. Options that are one of several names are ints: the position of
// the name in hardmine/types.py (core/options.h). Those that need explaining:
//   ids, ref_ids  [B] and [M] int64: a pair of equal ids >= 0 is no candidate; both None if no pair is excluded so
//   random      [1 or 2, B] float64, uniform in [0, 1): the numbers that a random positive, then a random negative is
//               picked by (core/random.h); None if neither is random
//   duplicate_threshold, semihard_margin   infinity: no such limit
//   min_similarity                         -infinity: no such limit
//   allow_tf32  whether CUDA may round float32 factors of products to TF32
// Implementations: cpu/ops/<op>.cpp, cuda/ops/<op>.cu. Python faces: hardmine/ops/<op>.py.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(hardmine, m) {
  // -> positive_similarity [B], negative_similarity [B], positive_index [B], negative_index [B]
  m.def(
      "select_triplets(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, Tensor? random, int similarity, int positive, int negative, int semihard_fallback, int tie, "
      "float duplicate_threshold, float semihard_margin, bool allow_tf32) -> (Tensor, Tensor, Tensor, Tensor)");

  // The pairs of all anchors with all their positives, each with its own negative, ascending by anchor, then positive
  // -> positive_similarity [P], negative_similarity [P], anchor_index [P], positive_index [P], negative_index [P].
  // On CUDA this and the loss below are in hardmine/ops/_all_positives_of_blocks.py, and only backward is here.
  m.def(
      "select_all_positives(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, int similarity, int negative, int semihard_fallback, int tie, float duplicate_threshold, "
      "float semihard_margin, bool allow_tf32) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The gradients of these similarities -> as select_triplets_backward.
  m.def(
      "select_all_positives_backward(Tensor grad_positive, Tensor grad_negative, Tensor embeddings, "
      "Tensor? ref_embeddings, Tensor anchor_index, Tensor positive_index, Tensor negative_index, int similarity, "
      "bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor)");

  // For ranks that hold the same rows and share the pairs: the selections of part `part` of num_parts, without random
  // rules -> words [1 or 2, 1 to 3, B] int64 (core/candidate_words.h) of positives, negatives and the fallbacks of
  // semi-hard negatives, whose maximum over the parts is the selection among all pairs. Semi-hard negatives need the
  // positives among all pairs, so every part has those. Without need_negatives: the positives of the part alone.
  m.def(
      "select_triplets_part(Tensor embeddings, Tensor labels, Tensor? ids, int similarity, int positive, int negative, "
      "int semihard_fallback, int tie, float duplicate_threshold, float semihard_margin, bool allow_tf32, "
      "bool need_negatives, int part, int num_parts) -> Tensor");

  // From the merged words of all selections, [1 or 2, 2 or 3, B] -> as select_triplets.
  m.def(
      "selection_of_parts(Tensor words, int similarity, int positive, int negative, int semihard_fallback) "
      "-> (Tensor, Tensor, Tensor, Tensor)");

  // The same among one block of the refs, and positive_key [B], negative_key [B] (core/selection.h), by which the
  // results of all blocks are merged. With semi-hard negatives: only the positives, or with positive_key, NaN for none,
  // only the negatives, which it bounds. No random selections.
  m.def(
      "select_triplets_block(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "Tensor? ids, Tensor? ref_ids, Tensor? positive_key, int similarity, int positive, int negative, int tie, "
      "float duplicate_threshold, float semihard_margin, bool allow_tf32) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The gradients of the selected similarities -> grad_embeddings [B, D], grad_ref_embeddings [M, D]; one that is not
  // needed is empty.
  m.def(
      "select_triplets_backward(Tensor grad_positive, Tensor grad_negative, Tensor embeddings, Tensor? ref_embeddings, "
      "Tensor positive_index, Tensor negative_index, int similarity, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor)");

  // -> loss [] or [B], and what select_triplets returns. sct_loss is this op with its own term and hard rules.
  m.def(
      "triplet_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, Tensor? random, int similarity, int positive, int negative, int semihard_fallback, int tie, "
      "float duplicate_threshold, float semihard_margin, bool allow_tf32, int term, int hard_rule, "
      "bool separate_means, float temperature, float margin, float lam, float hard_cutoff, float min_similarity, "
      "int reduction) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The gradients of the loss and of the selected similarities -> as select_triplets_backward.
  m.def(
      "triplet_loss_backward(Tensor grad_loss, Tensor? grad_positive, Tensor? grad_negative, Tensor embeddings, "
      "Tensor? ref_embeddings, Tensor positive_similarity, Tensor negative_similarity, Tensor positive_index, "
      "Tensor negative_index, int similarity, int term, int hard_rule, bool separate_means, "
      "float temperature, float margin, float lam, float hard_cutoff, float min_similarity, int reduction, "
      "bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor)");

  // On the CPU, with reduction 'mean', 'mean_active' or 'sum': the loss and its gradients; one that is not needed is
  // empty.
  m.def(
      "triplet_loss_with_gradients(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "Tensor? ids, Tensor? ref_ids, Tensor? random, int similarity, int positive, int negative, "
      "int semihard_fallback, int tie, float duplicate_threshold, float semihard_margin, bool allow_tf32, int term, "
      "int hard_rule, bool separate_means, float temperature, float margin, float lam, float hard_cutoff, "
      "float min_similarity, int reduction, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor, Tensor)");

  // The gradients above times grad_loss -> as select_triplets_backward.
  m.def(
      "triplet_loss_with_gradients_backward(Tensor grad_loss, Tensor grad_embeddings, Tensor grad_ref_embeddings, "
      "Tensor embeddings, Tensor? ref_embeddings, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor)");

  // The same of every pair of an anchor and a positive -> loss [] or [P], and what select_all_positives returns.
  m.def(
      "all_positives_triplet_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "Tensor? ids, Tensor? ref_ids, int similarity, int negative, int semihard_fallback, int tie, "
      "float duplicate_threshold, float semihard_margin, bool allow_tf32, int term, int hard_rule, "
      "bool separate_means, float temperature, float margin, float lam, float hard_cutoff, float min_similarity, "
      "int reduction) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The gradients of the loss and of the selected similarities -> as select_triplets_backward.
  m.def(
      "all_positives_triplet_loss_backward(Tensor grad_loss, Tensor? grad_positive, Tensor? grad_negative, "
      "Tensor embeddings, Tensor? ref_embeddings, Tensor positive_similarity, Tensor negative_similarity, "
      "Tensor anchor_index, Tensor positive_index, Tensor negative_index, int similarity, int term, int hard_rule, "
      "bool separate_means, float temperature, float margin, float lam, float hard_cutoff, float min_similarity, "
      "int reduction, bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor)");

  // From the merged words of all selections, as in selection_of_parts -> as triplet_loss.
  m.def(
      "triplet_loss_of_parts(Tensor embeddings, Tensor words, int similarity, int positive, int negative, "
      "int semihard_fallback, int term, int hard_rule, bool separate_means, float temperature, float margin, "
      "float lam, float hard_cutoff, float min_similarity, int reduction) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The gradient of the loss, for rows [first_row, first_row + num_rows) of the embeddings -> [num_rows, D].
  m.def(
      "triplet_loss_backward_rows(Tensor grad_loss, Tensor embeddings, Tensor positive_similarity, "
      "Tensor negative_similarity, Tensor positive_index, Tensor negative_index, int similarity, int term, "
      "int hard_rule, bool separate_means, float temperature, float margin, float lam, float hard_cutoff, "
      "float min_similarity, int reduction, int first_row, int num_rows) -> Tensor");

  // -> loss [] or [B]; negative_logsumexp = shift / temperature + log(sum), positive_similarity, shift, sum, slope (of
  // the anchor's term in negative_logsumexp), positive_index, positive_count, each [B].
  m.def(
      "tuplet_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, int similarity, int positive, float temperature, float duplicate_threshold, int reduction, "
      "bool allow_tf32) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // On the CPU, with reduction 'mean' or 'sum' -> as triplet_loss_with_gradients.
  m.def(
      "tuplet_loss_with_gradients(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "Tensor? ids, Tensor? ref_ids, int similarity, int positive, float temperature, float duplicate_threshold, "
      "int reduction, bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor, Tensor)");

  // -> as triplet_loss_with_gradients_backward.
  m.def(
      "tuplet_loss_with_gradients_backward(Tensor grad_loss, Tensor grad_embeddings, Tensor grad_ref_embeddings, "
      "Tensor embeddings, Tensor? ref_embeddings, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor)");

  // On the CPU, the mean over the anchors that have a positive, or the sum -> as triplet_loss_with_gradients. On CUDA
  // the loss is a function of logsumexp.
  m.def(
      "supcon_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, int similarity, float temperature, bool is_mean, bool need_embeddings, "
      "bool need_ref_embeddings) -> (Tensor, Tensor, Tensor)");

  // -> as triplet_loss_with_gradients_backward.
  m.def(
      "supcon_loss_backward(Tensor grad_loss, Tensor grad_embeddings, Tensor grad_ref_embeddings, Tensor embeddings, "
      "Tensor? ref_embeddings, bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor)");

  // On the CPU, the mean over all anchors, or the sum -> as triplet_loss_with_gradients. With mining, and on CUDA, the
  // loss is a function of logsumexp.
  m.def(
      "multi_similarity_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "Tensor? ids, Tensor? ref_ids, int similarity, float alpha, float beta, float base, bool is_mean, "
      "bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor, Tensor)");

  // -> as triplet_loss_with_gradients_backward.
  m.def(
      "multi_similarity_loss_backward(Tensor grad_loss, Tensor grad_embeddings, Tensor grad_ref_embeddings, "
      "Tensor embeddings, Tensor? ref_embeddings, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor)");

  // On the CPU, the mean over the anchors that have a positive and a negative, or the sum -> as
  // triplet_loss_with_gradients. On CUDA the loss is a function of logsumexp.
  m.def(
      "circle_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, float m, float gamma, bool is_mean, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor, Tensor)");

  // -> as triplet_loss_with_gradients_backward.
  m.def(
      "circle_loss_backward(Tensor grad_loss, Tensor grad_embeddings, Tensor grad_ref_embeddings, Tensor embeddings, "
      "Tensor? ref_embeddings, bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor)");

  // For ranks that hold the same rows and share the pairs. words: None, or the merged words of positives, [1 or 2, 1,
  // B], if one shift suffices (core/losses/tuplet_terms.h), or of positives and hardest negatives, [1 or 2, 2, B].
  // -> sum [B] float64 of the exponentials among the pairs of part `part` of num_parts.
  m.def(
      "tuplet_loss_part(Tensor embeddings, Tensor labels, Tensor? ids, Tensor? words, int similarity, int positive, "
      "float temperature, bool allow_tf32, int part, int num_parts) -> Tensor");

  // From the sum over all parts -> as tuplet_loss.
  m.def(
      "tuplet_loss_of_parts(Tensor embeddings, Tensor labels, Tensor? ids, Tensor? words, Tensor sum, int similarity, "
      "int positive, float temperature, float duplicate_threshold, int reduction, bool allow_tf32) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // What the pairs of a part add to the gradient of the loss -> [B, D], float64 for float64 embeddings, else float32.
  m.def(
      "tuplet_loss_backward_part(Tensor grad_loss, Tensor embeddings, Tensor labels, Tensor? ids, Tensor shift, "
      "Tensor sum, Tensor slope, Tensor positive_index, Tensor positive_count, int similarity, int positive, "
      "float temperature, float duplicate_threshold, int reduction, bool allow_tf32, int part, int num_parts) "
      "-> Tensor");

  // Among one block of the refs: shift and sum, each [B], which are merged with those of other blocks. All sums are NaN
  // if some row is not finite.
  m.def(
      "tuplet_logsumexp(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, int similarity, float temperature, bool allow_tf32) -> (Tensor, Tensor)");

  // Among one block of the refs, with positive 'all' and the merged shift and sum: the mean over the block's positives
  // of an anchor's term and of its slope, and their number, each [B]. All are 0 without a positive or a negative.
  m.def(
      "tuplet_positives(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, Tensor shift, Tensor sum, int similarity, float temperature, float duplicate_threshold, "
      "bool allow_tf32) -> (Tensor, Tensor, Tensor)");

  // The gradient of the loss -> as select_triplets_backward.
  m.def(
      "tuplet_loss_backward(Tensor grad_loss, Tensor embeddings, Tensor labels, Tensor? ref_embeddings, "
      "Tensor? ref_labels, Tensor? ids, Tensor? ref_ids, Tensor shift, Tensor sum, Tensor slope, "
      "Tensor positive_index, Tensor positive_count, int similarity, int positive, float temperature, "
      "float duplicate_threshold, int reduction, bool allow_tf32, "
      "bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor)");

  // temperature: float64 [], on the device of embeddings. bound, with refs only: [B], the pairs of an anchor are those
  // whose signed similarity is above it; logit: what is in the exponent in place of the similarity, with the margin of
  // the circle loss (core/losses/pair_logit.h). With of_columns the refs are anchors as well. -> log_sum
  // [B], column_log_sum [M], positive_similarity [B], which is the mean of an anchor's positives or 0, state [3, B] and
  // column_state [3, M] of shift, sum and mean_offset (core/losses/logsumexp.h), positive_count [B]. The log-sum-exp is
  // shift / temperature + log_sum. What of_columns or positives does not ask for is empty.
  m.def(
      "logsumexp(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, Tensor temperature, Tensor? bound, int similarity, int pairs, bool of_columns, bool positives, "
      "int logit, float margin, bool allow_tf32) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");

  // From the gradients of log_sum, column_log_sum and positive_similarity, with the shifts held constant -> as
  // select_triplets_backward. grad_column is given with of_columns only.
  m.def(
      "logsumexp_backward(Tensor grad_log_sum, Tensor? grad_column, Tensor? grad_positive, Tensor embeddings, "
      "Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, Tensor? ref_ids, Tensor temperature, "
      "Tensor? bound, Tensor state, Tensor column_state, Tensor positive_count, int similarity, int pairs, "
      "bool of_columns, int logit, float margin, bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) -> "
      "(Tensor, Tensor)");

  // Query i belongs to key i; the other keys, which may be more, are its negatives. With symmetric, the mean of both
  // directions. temperature: float64 []. is_mean: over the pairs; else the sum -> loss [], grad_query [B, D], grad_key
  // [M, D] and grad_temperature [] of the loss; one that is not needed is empty. On CUDA the loss is a function of
  // logsumexp.
  m.def(
      "info_nce_loss(Tensor query, Tensor key, Tensor temperature, int similarity, bool symmetric, bool is_mean, "
      "bool need_query, bool need_key, bool need_temperature) -> (Tensor, Tensor, Tensor, Tensor)");

  // The gradients above times grad_loss.
  m.def(
      "info_nce_loss_backward(Tensor grad_loss, Tensor grad_query, Tensor grad_key, Tensor grad_temperature, "
      "Tensor query, Tensor key, Tensor temperature, bool need_query, bool need_key, bool need_temperature) "
      "-> (Tensor, Tensor, Tensor)");

  // logit: float64 [2], scale and bias, on the device of the query. Pairs of equal labels are positives -> value [B],
  // the sum of the losses of a query's pairs, and its derivatives by scale and bias, [2, B].
  m.def(
      "sigmoid_loss(Tensor query, Tensor labels, Tensor key, Tensor key_labels, Tensor logit, int similarity, "
      "bool allow_tf32) -> (Tensor, Tensor)");

  // From the gradient of value -> as select_triplets_backward, of query and key.
  m.def(
      "sigmoid_loss_backward(Tensor grad_value, Tensor query, Tensor labels, Tensor key, Tensor key_labels, "
      "Tensor logit, int similarity, bool allow_tf32, bool need_query, bool need_key) -> (Tensor, Tensor)");

  // On the CPU, where the key of a query has its row number -> the mean or the sum over queries, []; grad_query,
  // grad_key, grad_logit [2] float64. A gradient that is not needed is empty.
  m.def(
      "sigmoid_loss_with_gradients(Tensor query, Tensor key, Tensor logit, int similarity, bool is_mean, "
      "bool need_query, bool need_key, bool need_logit) -> (Tensor, Tensor, Tensor, Tensor)");

  // The gradients above times grad_loss.
  m.def(
      "sigmoid_loss_with_gradients_backward(Tensor grad_loss, Tensor grad_query, Tensor grad_key, Tensor grad_logit, "
      "Tensor query, Tensor key, Tensor logit, bool need_query, bool need_key, bool need_logit) "
      "-> (Tensor, Tensor, Tensor)");

  // -> loss []; grad_embeddings [B, D], grad_ref_embeddings [M, D]; the numbers of active triplets and of all, []
  // int64. A gradient that is not needed is empty. The loss of all triplets determines its gradients up to grad_loss,
  // so backward only multiplies. ref_table_row [M] is given together with margin_table and refs.
  m.def(
      "batch_all_triplet_loss(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, "
      "Tensor? ids, Tensor? ref_ids, Tensor? margin_table, Tensor? table_row, Tensor? ref_table_row, int similarity, "
      "bool squared, float margin, int reduction, bool allow_tf32, bool need_embeddings, bool need_ref_embeddings) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The gradients above times grad_loss -> as select_triplets_backward.
  m.def(
      "batch_all_triplet_loss_backward(Tensor grad_loss, Tensor grad_embeddings, Tensor grad_ref_embeddings, "
      "Tensor embeddings, Tensor? ref_embeddings, bool need_embeddings, bool need_ref_embeddings) -> (Tensor, Tensor)");

  // The k nearest of refs [M, D], or among the queries [Q, D] themselves -> similarity [Q, k], index [Q, k].
  m.def(
      "knn(Tensor queries, Tensor? refs, Tensor? ids, Tensor? ref_ids, int k, bool exclude_self, int similarity, "
      "bool allow_tf32) -> (Tensor, Tensor)");

  // For sets in blocks, on the CPU: merges the pairs of a block into the lists first_key, first_numbers [F, k] of the
  // first F queries, and key, numbers [Q - F, k] of the others: keys (core/selection.h) and row numbers in the whole
  // set. With F > 0, only the pairs of one of the first queries with one of the others count. Row 0 (of the refs, if
  // there are any) has the number first_number, row F other_number. The result, k, means nothing.
  m.def(
      "knn_block(Tensor queries, Tensor? refs, Tensor? ids, Tensor? ref_ids, Tensor(a!) first_key, "
      "Tensor(b!) first_numbers, Tensor(c!) key, Tensor(d!) numbers, bool exclude_self, int similarity, "
      "int first_number, int other_number) -> int");

  // The gradient of the similarities -> grad_queries [Q, D], grad_refs [M, D]; one that is not needed is empty.
  m.def(
      "knn_backward(Tensor grad_similarity, Tensor index, Tensor queries, Tensor? refs, int similarity, "
      "bool need_queries, bool need_refs) -> (Tensor, Tensor)");

  // The ranks, from 1, of the positives of each query among all its candidates -> first [B + 1], rank: those of query
  // q, ascending, are rank[first[q]] up to, not including, rank[first[q + 1]]. With num_parts > 1, only the negatives
  // of the pairs of part `part` move ranks down.
  m.def(
      "positive_ranks(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, int similarity, int part, int num_parts) -> (Tensor, Tensor)");

  // On the CPU -> per query, [B] int64, the number of candidates that are more similar, by cosine, than its most
  // similar positive, at most `limit`; `limit` without a positive. With num_parts > 1, only the negatives of the pairs
  // of part `part` count.
  m.def(
      "best_positive_ranks(Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor? ref_labels, Tensor? ids, "
      "Tensor? ref_ids, int limit, int part, int num_parts) -> Tensor");

  // -> loss [] or [T], similarities of the pairs (a, p) and (a, n), each [T]; with term ratio, negative distances.
  m.def(
      "indexed_triplet_loss(Tensor embeddings, Tensor triplets, int similarity, int term, "
      "float temperature, float margin, float lam, int reduction) -> (Tensor, Tensor, Tensor)");

  // The gradients of the loss and of the similarities -> grad_embeddings [B, D].
  m.def(
      "indexed_triplet_loss_backward(Tensor grad_loss, Tensor? grad_positive, Tensor? grad_negative, "
      "Tensor embeddings, Tensor triplets, Tensor positive_similarity, Tensor negative_similarity, int similarity, "
      "int term, float temperature, float margin, float lam, int reduction) -> Tensor");

  // -> loss [], |f_a - f_p|^2 / 4 and |f_a - f_n|^2 / 4, each [T].
  m.def(
      "global_loss(Tensor embeddings, Tensor triplets, int similarity, float lam, float threshold) "
      "-> (Tensor, Tensor, Tensor)");

  // The gradients of the loss and of the distances -> grad_embeddings [B, D].
  m.def(
      "global_loss_backward(Tensor grad_loss, Tensor? grad_positive, Tensor? grad_negative, Tensor embeddings, "
      "Tensor triplets, Tensor positive_distance, Tensor negative_distance, int similarity, float lam, "
      "float threshold) -> Tensor");

  // The SIMD target that the CPU ops run on: 'scalar', 'avx2', 'avx512' or 'neon'.
  m.def("simd_level() -> str");
}
