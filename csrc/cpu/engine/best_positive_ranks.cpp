// Two passes. The first visits same-class pairs and finds the best positive of each row. The second visits the other
// pairs with the kernel of nearest neighbors, whose reservoirs admit only candidates above the best positive. A row
// with a full reservoir admits no more: the kernel meets at most `limit` such candidates per row.

#include "cpu/engine/best_positive_ranks.h"

#include <algorithm>
#include <limits>

#include "core/similarity.h"
#include "cpu/engine/block_pass.h"
#include "cpu/simd/knn_block_table.h"

namespace hardmine::cpu {
namespace {

// The best positive of each sorted row, as (key, index); the key is infinity without a positive.
template <class T>
struct BestPositives {
  WorkspaceVector<T> key;
  WorkspaceVector<Index> index;

  BestPositives(const PairwiseOperands<T>& operands, const ThreadPool& pool)
      : key(round_up(operands.rows().count(), kBlockStep), -std::numeric_limits<T>::infinity()),
        index(key.size(), kBelowRange) {
    const PairwiseParams<T>& params = operands.params();
    for_each_block(operands, PairKind::kSameClass, 1.0, pool, [&](int64_t, const Block& block, const T* scores) {
      for (int64_t row = block.row_begin; row < block.row_end; ++row) {
        const T* row_scores = scores + (row - block.row_begin) * kMaxBlockColumns;
        const int64_t* label = params.columns.label;
        const auto [begin, end] =
            std::equal_range(label + block.column_begin, label + block.column_end, params.rows.label[row]);
        for (int64_t c = begin - label; c < end - label; ++c) {
          const T score = row_scores[c - block.column_begin];
          if (score != score) continue;  // not a candidate, or visited as (column, row)
          const T pair_key = key_from_score(params.euclidean, score);
          offer(row, pair_key, params.columns.id[c]);
          if (params.symmetric) offer(c, pair_key, params.rows.id[row]);
        }
      }
    });
    for (T& best : key)
      if (best == -std::numeric_limits<T>::infinity()) best = std::numeric_limits<T>::infinity();
  }

 private:
  void offer(int64_t row, T pair_key, Index id) {
    if (!beats(pair_key, id, key[row], index[row])) return;
    key[row] = pair_key;
    index[row] = id;
  }
};

// A row whose reservoir is full admits no more.
template <class T>
void close_row(const Reservoirs<T>& reservoirs, int64_t row) {
  reservoirs.worst_key[row] = std::numeric_limits<T>::infinity();
}

}  // namespace

template <class T>
void best_positive_ranks(const LabeledMatrix<T>& queries, const LabeledMatrix<T>* refs, int64_t depth, int64_t limit,
                         const PassPart& part, const ThreadPool& pool, int64_t* better) {
  std::fill_n(better, queries.count, limit);
  const PairwiseOperands<T> operands(measure_of(Similarity::kCosine), queries, refs, depth, pool);
  if (operands.empty()) return;
  const SortedRows<T>& rows = operands.rows();
  BestPositives<T> best(operands, pool);
  WorkspaceVector<uint8_t> has_positive(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i) has_positive[i] = best.key[i] < std::numeric_limits<T>::infinity();
  Buffer<Neighbor<T>> candidates(static_cast<int64_t>(best.key.size()) * limit);
  WorkspaceVector<int32_t> size(best.key.size(), 0);
  const Reservoirs<T> reservoirs{.k = limit,
                                 .capacity = limit,
                                 .candidates = candidates.get(),
                                 .size = size.data(),
                                 .worst_key = best.key.data(),
                                 .worst_index = best.index.data(),
                                 .compact = close_row<T>};
  const KnnKernels<T>& kernel = kernels<KnnKernels<T>>();
  for_each_filled_block(
      operands, PairKind::kOtherClass, 1, pool, [](const Block&) { return true; },
      [](const Block&, T* buffer) { return buffer; },
      [&](int64_t, const Block& block, T*) { kernel.knn_block(operands.params(), block, reservoirs); }, part);
  for (int64_t i = 0; i < rows.count(); ++i)
    if (has_positive[i]) better[rows.permutation()[i]] = size[i];
}

template decltype(best_positive_ranks<float>) best_positive_ranks<float>;
template decltype(best_positive_ranks<double>) best_positive_ranks<double>;

}  // namespace hardmine::cpu
