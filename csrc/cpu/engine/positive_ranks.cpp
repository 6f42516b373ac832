// Two passes. The first visits same-class pairs and lists the positives of each row, best first. The second visits the
// other pairs, and counts each negative at the best positive that it beats. A positive's rank follows from the counts
// up to it.

#include "cpu/engine/positive_ranks.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/engine/class_keys.h"
#include "cpu/simd/rank_block_table.h"

namespace hardmine::cpu {
namespace {

template <class T>
struct Positive {
  T key;
  Index index;
};

}  // namespace

template <class T>
PositiveRanks positive_ranks(Similarity kind, const LabeledMatrix<T>& queries, const LabeledMatrix<T>* refs,
                             int64_t depth, const PassPart& part, const ThreadPool& pool) {
  const RankKernels<T>& kernel = kernels<RankKernels<T>>();
  const T infinity = std::numeric_limits<T>::infinity();
  PositiveRanks out{.first = WorkspaceVector<int64_t>(queries.count + 1, 0), .rank = {}};
  const PairwiseOperands<T> operands(measure_of(kind), queries, refs, depth, pool);
  if (operands.empty()) return out;
  const PairwiseParams<T>& params = operands.params();
  const SortedRows<T>&rows = operands.rows(), &columns = operands.columns();
  const int64_t count = rows.count();

  const ClassColumns of_class(rows, columns);
  const WorkspaceVector<T> class_key = class_keys(operands, of_class, pool);

  WorkspaceVector<int64_t> first(count + 1, 0);
  for (int64_t r = 0; r < count; ++r) {
    const auto begin = class_key.begin();
    first[r + 1] = first[r] + std::count_if(begin + of_class.first[r], begin + of_class.first[r + 1],
                                            [](T key) { return key == key; });
  }
  WorkspaceVector<T> key(first[count]), worst(round_up(count, kMaxBlockColumns) + kMaxBlockColumns, infinity);
  WorkspaceVector<Index> index(first[count]);
  WorkspaceVector<int64_t> passed(first[count], 0);
  const int64_t threads = thread_count_for(pool, static_cast<double>(class_key.size()), kElementGrain);
  parallel_range(pool, threads, count, 1, [&](int64_t row_begin, int64_t row_end) {
    std::vector<Positive<T>> positives;
    for (int64_t r = row_begin; r < row_end; ++r) {
      positives.clear();
      for (int64_t p = of_class.first[r]; p < of_class.first[r + 1]; ++p) {
        if (class_key[p] != class_key[p]) continue;
        positives.push_back({class_key[p], columns.permutation()[of_class.begin[r] + p - of_class.first[r]]});
      }
      std::sort(positives.begin(), positives.end(),
                [](const Positive<T>& a, const Positive<T>& b) { return beats(a.key, a.index, b.key, b.index); });
      for (size_t p = 0; p < positives.size(); ++p) {
        key[first[r] + p] = positives[p].key;
        index[first[r] + p] = positives[p].index;
      }
      if (!positives.empty()) worst[r] = positives.back().key;
    }
  });

  const RankedPositives<T> ranked{
      .first = first.data(), .key = key.data(), .index = index.data(), .worst = worst.data(), .passed = passed.data()};
  const auto count_better = [&](int64_t, const Block& block, const T* scores) {
    kernel.count_better_negatives(params, block, scores, ranked);
  };
  for_each_block(operands, PairKind::kOtherClass, 1.2, pool, count_better, part);

  for (int64_t r = 0; r < count; ++r) out.first[rows.permutation()[r] + 1] = first[r + 1] - first[r];
  for (int64_t q = 0; q < count; ++q) out.first[q + 1] += out.first[q];
  out.rank.resize(first[count]);
  for (int64_t r = 0; r < count; ++r) {
    int64_t rank = 0;
    for (int64_t p = first[r]; p < first[r + 1]; ++p) {
      rank += 1 + passed[p];
      out.rank[out.first[rows.permutation()[r]] + p - first[r]] = rank;
    }
  }
  return out;
}

template decltype(positive_ranks<float>) positive_ranks<float>;
template decltype(positive_ranks<double>) positive_ranks<double>;

}  // namespace hardmine::cpu
