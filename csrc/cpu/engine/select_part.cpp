#include "cpu/engine/select_part.h"

#include <vector>

#include "core/candidate_words.h"
#include "cpu/engine/pairwise_operands.h"
#include "cpu/engine/selection_pass.h"

namespace hardmine::cpu {

template <class T>
void select_part(const SelectionRule& rule, const LabeledMatrix<T>& anchors, int64_t depth, const PassPart& part,
                 bool need_negatives, const ThreadPool& pool, int64_t* out) {
  const PairwiseOperands<T> operands(measure_of(rule.similarity), anchors, nullptr, depth, pool);
  if (operands.empty()) return;
  const SortedRows<T>& rows = operands.rows();
  const int64_t selections = need_negatives ? part_selections(rule) : 1;
  const auto select = [&](int64_t first, const std::vector<SelectionSpec<T>>& specs, const PassPart& of) {
    std::vector<SelectionResult<T>> results = run_pass(rows, rows, operands.params(), specs, pool, of);
    for (size_t s = 0; s < results.size(); ++s) {
      int64_t* words = out + (first + static_cast<int64_t>(s)) * rows.count();
      for (int64_t i = 0; i < rows.count(); ++i)
        write_candidate(results[s].key[i], results[s].index[i], words + rows.permutation()[i],
                        selections * rows.count());
    }
    return results;
  };

  std::vector<SelectionSpec<T>> specs{positive_spec<T>(rule)};
  if (!need_negatives || rule.negative != Negative::kSemihard) {
    if (need_negatives) specs.push_back(negative_spec<T>(prefers_least_similar(rule.negative)));
    select(0, specs, part);
    return;
  }
  // Equal labels are in few tiles of sorted rows: to compute all of these costs less than to exchange positives.
  const std::vector<SelectionResult<T>> positives = select(0, specs, {});
  Buffer<T> positive_key(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i) {
    const T key = positives[0].key[i];
    positive_key[i] = !is_candidate(positives[0].index[i])   ? std::numeric_limits<T>::quiet_NaN()
                      : prefers_least_similar(rule.positive) ? -key
                                                             : key;
  }
  specs = {semihard_spec<T>(rule, positive_key.get())};
  // In the same pass, although only anchors without a semi-hard negative need a fallback: which these are is known once
  // all parts are merged.
  if (rule.semihard_fallback != Fallback::kNone)
    specs.push_back(negative_spec<T>(rule.semihard_fallback == Fallback::kEasiest));
  select(1, specs, part);
}

template <class T>
void merged_selection(const SelectionRule& rule, const int64_t* words, int64_t count, const SelectionOut<T>& out) {
  const int64_t selections = part_selections(rule), stride = selections * count;
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
