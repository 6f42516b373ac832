#include "cpu/engine/select_part.h"

#include <vector>

#include "core/candidate_words.h"
#include "cpu/engine/pairwise_operands.h"
#include "cpu/engine/selection_pass.h"

namespace hardmine::cpu {

template <class T>
void select_part(const SelectionRule& rule, const LabeledMatrix<T>& anchors, int64_t depth, const PassPart& part,
                 const int64_t* positives, const ThreadPool& pool, int64_t* out) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, nullptr, depth, pool);
  if (operands.empty()) return;
  const SortedRows<T>& rows = operands.rows();
  const bool semihard = rule.negative == Negative::kSemihard;
  std::vector<SelectionSpec<T>> specs;
  Buffer<T> positive_key(rows.count());
  if (!positives) specs.push_back(positive_spec<T>(rule));
  if (!semihard) specs.push_back(negative_spec<T>(prefers_least_similar(rule.negative)));
  if (positives) {
    for (int64_t i = 0; i < rows.count(); ++i) {
      const KeyedIndex<T> positive = read_candidate<T>(positives + rows.permutation()[i], rows.count());
      positive_key[i] = !is_candidate(positive.index)          ? std::numeric_limits<T>::quiet_NaN()
                        : prefers_least_similar(rule.positive) ? -positive.key
                                                               : positive.key;
    }
    specs.push_back(semihard_spec<T>(rule, positive_key.get()));
    // In the same pass, although only anchors without a semi-hard negative need a fallback: which these are is known
    // once all parts are merged.
    if (rule.semihard_fallback != Fallback::kNone)
      specs.push_back(negative_spec<T>(rule.semihard_fallback == Fallback::kEasiest));
  }
  const std::vector<SelectionResult<T>> results = run_pass(rows, rows, operands.params(), specs, pool, part);
  const int64_t selections = static_cast<int64_t>(specs.size());
  for (int64_t s = 0; s < selections; ++s)
    for (int64_t i = 0; i < rows.count(); ++i)
      write_candidate(results[s].key[i], results[s].index[i], out + s * rows.count() + rows.permutation()[i],
                      selections * rows.count());
}

template <class T>
void merged_selection(const SelectionRule& rule, const int64_t* words, int64_t count, const SelectionOut<T>& out) {
  const int64_t selections = merged_selections(rule), stride = selections * count;
  const auto write = [&](const KeyedIndex<T>& best, bool least_similar, int64_t* index, T* similarity) {
    const bool found = is_candidate(best.index);
    *index = found ? best.index : -1;
    *similarity = found ? similarity_from_key(rule.similarity, least_similar ? -best.key : best.key)
                        : std::numeric_limits<T>::quiet_NaN();
  };
  for (int64_t i = 0; i < count; ++i) {
    write(read_candidate<T>(words + i, stride), prefers_least_similar(rule.positive), out.positive_index + i,
          out.positive_similarity + i);
    KeyedIndex<T> negative = read_candidate<T>(words + count + i, stride);
    bool least_similar = prefers_least_similar(rule.negative);
    if (selections == 3 && !is_candidate(negative.index)) {
      negative = read_candidate<T>(words + 2 * count + i, stride);
      least_similar = rule.semihard_fallback == Fallback::kEasiest;
    }
    write(negative, least_similar, out.negative_index + i, out.negative_similarity + i);
  }
}

template decltype(select_part<float>) select_part<float>;
template decltype(select_part<double>) select_part<double>;
template decltype(merged_selection<float>) merged_selection<float>;
template decltype(merged_selection<double>) merged_selection<double>;

}  // namespace hardmine::cpu
