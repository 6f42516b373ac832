// Selection takes one pass over the tiles, or two if semi-hard negatives are bounded by their anchors' positives. Then
// the first pass selects positives from tiles with same-class pairs, and the second selects negatives from tiles with
// other pairs. Only tiles with both kinds of pairs are computed twice. Random selections are made apart
// (random_pick.h).

#include "cpu/engine/select_triplets.h"

#include <memory>
#include <utility>
#include <vector>

#include "core/similarity.h"
#include "cpu/engine/excluded_pairs.h"
#include "cpu/engine/random_pick.h"
#include "cpu/engine/selection_pass.h"

namespace hardmine::cpu {

template <class T>
bool select_triplets(const SelectionRule& rule, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                     int64_t depth, const RandomNumbers& random, const ThreadPool& pool, const SelectionOut<T>& out) {
  const bool symmetric = refs == nullptr;
  const PairMeasure measure = measure_of(rule.similarity);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (int64_t i = 0; i < anchors.count; ++i) {
    out.positive_index[i] = out.negative_index[i] = -1;
    out.positive_similarity[i] = out.negative_similarity[i] = nan;
    if (out.positive_key) out.positive_key[i] = out.negative_key[i] = nan;
  }

  const Norms<T> norms(anchors.x, anchors.count, depth, pool);
  const std::unique_ptr<Norms<T>> ref_norms =
      refs ? std::make_unique<Norms<T>>(refs->x, refs->count, depth, pool) : nullptr;
  const bool finite = norms.finite && (!refs || ref_norms->finite);
  if (anchors.count == 0 || (refs && refs->count == 0)) return finite;

  const KeyRange<T> positives = positive_range<T>(rule);
  const bool bounded_positives = positives.upper < std::numeric_limits<T>::infinity();
  const bool random_positive = rule.positive == Positive::kRandom, random_negative = rule.negative == Negative::kRandom;
  const bool semihard = rule.negative == Negative::kSemihard;
  // The candidates of a random selection follow from labels and ids, unless similarities may be NaN or exceed a bound.
  const bool needs_tiles = !random_positive || !random_negative || bounded_positives || !finite;

  const T* norm = measure.normalized ? norms.norm.get() : nullptr;
  const T* ref_norm = measure.normalized && refs ? ref_norms->norm.get() : nullptr;
  const SortedRows<T> rows(anchors, depth, norm, nullptr,
                           !needs_tiles ? PackFor::kNothing
                           : symmetric  ? PackFor::kRowsAndColumns
                                        : PackFor::kRows,
                           pool);
  const std::unique_ptr<SortedRows<T>> ref_rows =
      refs ? std::make_unique<SortedRows<T>>(*refs, depth, ref_norm, nullptr,
                                             needs_tiles ? PackFor::kColumns : PackFor::kNothing, pool)
           : nullptr;
  const SortedRows<T>& columns = refs ? *ref_rows : rows;

  const int64_t* column_id = refs ? refs->id : anchors.id;
  const PairExclusions exclusions(anchors.id, rows, column_id, columns);

  PairwiseParams<T> params{};
  params.depth = depth;
  params.symmetric = symmetric;
  params.euclidean = is_distance(measure);
  params.hyperbolic = is_hyperbolic(measure);
  params.excluded = exclusions.view();
  const auto write = [&](Index anchor, bool least_similar, T key, Index index, int64_t* indices, T* similarities,
                         T* keys) {
    const T not_negated = least_similar ? -key : key;
    indices[anchor] = index;
    similarities[anchor] = similarity_from_key(rule.similarity, not_negated);
    if (keys) keys[anchor] = not_negated;
  };

  const bool hardest_positive = prefers_least_similar(rule.positive);
  const bool easiest_negative = prefers_least_similar(rule.negative);
  const auto picked = [&](const double* uniform, PairKind kind, bool by_similarity, T upper) {
    const PickOperand<T> row_operand{anchors.x, norm, rows};
    const PickOperand<T> column_operand = refs ? PickOperand<T>{refs->x, ref_norm, columns} : row_operand;
    return pick_random<T>({.uniform = uniform,
                           .kind = kind,
                           .symmetric = symmetric,
                           .euclidean = params.euclidean,
                           .hyperbolic = params.hyperbolic,
                           .by_similarity = by_similarity || !finite,
                           .upper = upper,
                           .excluded = params.excluded,
                           .depth = depth},
                          row_operand, column_operand, pool);
  };

  // One pass makes all selections that do not depend on another. Of `results`, positives come first.
  std::vector<SelectionSpec<T>> specs;
  if (!random_positive && out.selects_positives()) specs.push_back(positive_spec<T>(rule));
  if (!random_negative && !semihard) specs.push_back(negative_spec<T>(easiest_negative));
  std::vector<SelectionResult<T>> results;
  if (!specs.empty()) results = run_pass(rows, columns, params, specs, pool);
  if (random_positive)
    results.insert(results.begin(), picked(random.positive, PairKind::kSameClass, bounded_positives, positives.upper));
  if (random_negative)
    results.push_back(picked(random.negative, PairKind::kOtherClass, false, std::numeric_limits<T>::infinity()));

  Buffer<T> positive_key(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i) {
    if (!out.selects_positives()) {
      positive_key[i] = out.given_positive_key[rows.permutation()[i]];
      continue;
    }
    const T key = results[0].key[i];
    const Index index = results[0].index[i];
    positive_key[i] = !is_candidate(index) ? nan : hardest_positive ? -key : key;
    if (!is_candidate(index)) continue;
    write(rows.permutation()[i], hardest_positive, key, index, out.positive_index, out.positive_similarity,
          out.positive_key);
  }
  if (!out.selects_negatives(rule.negative)) return finite;

  if (semihard) {
    results.push_back(
        std::move(run_pass(rows, columns, params, {semihard_spec<T>(rule, positive_key.get())}, pool).front()));
  }
  WorkspaceVector<Index> without;
  for (int64_t i = 0; i < rows.count(); ++i) {
    const Index anchor = rows.permutation()[i], index = results.back().index[i];
    if (is_candidate(index)) {
      write(anchor, easiest_negative, results.back().key[i], index, out.negative_index, out.negative_similarity,
            out.negative_key);
    } else {
      without.push_back(anchor);
    }
  }

  // Few anchors lack a semi-hard negative, so a separate pass over these is cheaper than a fallback for all anchors.
  if (semihard && rule.semihard_fallback != Fallback::kNone && !without.empty()) {
    const bool easiest = rule.semihard_fallback == Fallback::kEasiest;
    const SortedRows<T> rest(anchors, depth, norm, &without, PackFor::kRows, pool);
    const PairExclusions rest_exclusions(anchors.id, rest, column_id, columns);
    params.symmetric = false;
    params.excluded = rest_exclusions.view();
    const SelectionResult<T> fallback =
        std::move(run_pass(rest, columns, params, {negative_spec<T>(easiest)}, pool).front());
    for (int64_t i = 0; i < rest.count(); ++i) {
      if (!is_candidate(fallback.index[i])) continue;
      write(rest.permutation()[i], easiest, fallback.key[i], fallback.index[i], out.negative_index,
            out.negative_similarity, out.negative_key);
    }
  }
  return finite;
}

template decltype(select_triplets<float>) select_triplets<float>;
template decltype(select_triplets<double>) select_triplets<double>;

}  // namespace hardmine::cpu
