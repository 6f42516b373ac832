// Selection in two passes over the tiles: positives first, which touch only tiles that hold same-class pairs, then
// negatives, which touch only tiles that hold others. So a semi-hard negative can be bounded by its anchor's positive,
// and yet each pair's similarity is computed once, but for the few tiles that hold both kinds.

#include "select.h"

#include <memory>

#include "rows.h"

namespace hardmine::cpu {
namespace {

// The outcome of a pass: the best candidate of every sorted row.
template <class T>
struct Winners {
  Buffer<T> key;
  Buffer<Index> index;
};

// Pairs (row, column) of equal labels; both sides are sorted.
template <class T>
double same_class_pairs(const SortedRows<T>& rows, const SortedRows<T>& columns) {
  double pairs = 0;
  int64_t c = 0;
  for (int64_t r = 0; r < rows.count();) {
    const int64_t label = rows.label()[r];
    int64_t row_end = r, column_end;
    while (row_end < rows.count() && rows.label()[row_end] == label) ++row_end;
    while (c < columns.count() && columns.label()[c] < label) ++c;
    for (column_end = c; column_end < columns.count() && columns.label()[column_end] == label;) ++column_end;
    pairs += static_cast<double>(row_end - r) * static_cast<double>(column_end - c);
    r = row_end;
    c = column_end;
  }
  return pairs;
}

// Runs one pass. range(row) is the KeyRange that sorted row starts from; `bounded` says whether any has an upper bound.
template <class T, class Range>
Winners<T> run_pass(const SortedRows<T>& rows, const SortedRows<T>& columns, PairPass<T> pass, bool bounded,
                    const Workers& workers, const Range& range) {
  const Kernels<T>& kernel = kernels<T>();
  pass.rows = rows.view();
  pass.columns = columns.view();
  const double same = same_class_pairs(rows, columns);
  const double pairs =
      pass.same_class ? same : static_cast<double>(rows.count()) * static_cast<double>(columns.count()) - same;
  const int64_t threads =
      workers_for(workers, pairs * static_cast<double>(pass.depth) / (pass.symmetric ? 2 : 1), kMultiplyAddGrain);

  // Small blocks where there are few, so that every thread gets some; at least one row group, at most the tile buffer.
  const int64_t column_block = round_up(256, kernel.column_panel);
  const int64_t column_blocks = (columns.count() + column_block - 1) / column_block;
  int64_t row_block = kMaxBlockRows;
  while (row_block > 24 && (rows.count() + row_block - 1) / row_block * column_blocks < 8 * threads) row_block /= 2;
  const int64_t row_blocks = (rows.count() + row_block - 1) / row_block;

  // Every worker keeps winners of its own; the order of candidates is total, so how they are merged changes nothing.
  const int64_t stride = round_up(rows.padded(), 16);
  Winners<T> all{Buffer<T>(threads * stride), Buffer<Index>(threads * stride)};
  Buffer<T> upper(bounded ? stride : 0);
  for (int64_t i = 0; i < rows.padded(); ++i) {
    const KeyRange<T> r = range(i < rows.count() ? i : rows.count() - 1);
    for (int64_t t = 0; t < threads; ++t) {
      all.key[t * stride + i] = r.start_key;
      all.index[t * stride + i] = r.start_index;
    }
    if (bounded) upper[i] = r.upper;
  }

  parallel_tasks(workers, threads, row_blocks * column_blocks, [&](int64_t worker, int64_t task) {
    const int64_t row = task / column_blocks * row_block, column = task % column_blocks * column_block;
    const int64_t row_end = std::min(row + row_block, rows.count()),
                  column_end = std::min(column + column_block, columns.count());
    if (pass.symmetric && column_end - 1 <= row) return;
    const auto &row_label = rows.label(), &column_label = columns.label();
    if (pass.same_class &&
        (row_label[row_end - 1] < column_label[column] || column_label[column_end - 1] < row_label[row]))
      return;
    kernel.select_block(
        pass, row, row_end, column, column_end,
        {all.key.get() + worker * stride, all.index.get() + worker * stride, bounded ? upper.get() : nullptr});
  });

  for (int64_t t = 1; t < threads; ++t) {
    for (int64_t i = 0; i < rows.count(); ++i) {
      const int64_t other = t * stride + i;
      if (!beats(all.key[other], all.index[other], all.key[i], all.index[i])) continue;
      all.key[i] = all.key[other];
      all.index[i] = all.index[other];
    }
  }
  return all;
}

}  // namespace

template <class T>
bool select_triplets(const SelectionRule& rule, const LabelledRows<T>& anchors, const LabelledRows<T>* refs,
                     int64_t depth, const Workers& workers, const SelectionOut<T>& out) {
  const bool symmetric = refs == nullptr, cosine = rule.similarity == Similarity::kCosine;
  const bool euclidean = rule.similarity == Similarity::kEuclidean;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  for (int64_t i = 0; i < anchors.count; ++i) {
    out.positive_index[i] = out.negative_index[i] = -1;
    out.positive_similarity[i] = out.negative_similarity[i] = nan;
  }

  const Norms<T> norms(anchors.x, anchors.count, depth, workers);
  const std::unique_ptr<Norms<T>> ref_norms =
      refs ? std::make_unique<Norms<T>>(refs->x, refs->count, depth, workers) : nullptr;
  const bool finite = norms.finite && (!refs || ref_norms->finite);
  if (anchors.count == 0 || (refs && refs->count == 0)) return finite;

  const T* scale = cosine ? norms.norm.get() : nullptr;
  const SortedRows<T> rows(anchors, depth, scale, nullptr, true, symmetric, workers);
  const std::unique_ptr<SortedRows<T>> ref_rows =
      refs ? std::make_unique<SortedRows<T>>(*refs, depth, cosine ? ref_norms->norm.get() : nullptr, nullptr, false,
                                             true, workers)
           : nullptr;
  const SortedRows<T>& columns = refs ? *ref_rows : rows;

  // Tiles of the Euclidean similarity hold squared distances, of which the smallest is the most similar.
  const auto pass_for = [&](bool same_class, bool least_similar) {
    PairPass<T> pass{};
    pass.depth = depth;
    pass.symmetric = symmetric;
    pass.same_class = same_class;
    pass.euclidean = euclidean;
    pass.largest_wins = least_similar == euclidean;
    return pass;
  };
  const auto write = [&](int64_t anchor, T order, Index index, int64_t* indices, T* similarities) {
    indices[anchor] = index;
    similarities[anchor] = similarity_from_order(rule.similarity, order);
  };

  const bool hardest_positive = prefers_least_similar(rule.positive);
  const KeyRange<T> positives = positive_range<T>(rule);
  const Winners<T> positive =
      run_pass(rows, columns, pass_for(true, hardest_positive), positives.upper < std::numeric_limits<T>::infinity(),
               workers, [&](int64_t) { return positives; });
  Buffer<T> positive_order(rows.count());
  for (int64_t i = 0; i < rows.count(); ++i) {
    const bool found = is_candidate(positive.index[i]);
    positive_order[i] = found ? (hardest_positive ? -positive.key[i] : positive.key[i]) : nan;
    if (found)
      write(rows.order()[i], positive_order[i], positive.index[i], out.positive_index, out.positive_similarity);
  }

  const bool semihard = rule.negative == Negative::kSemihard;
  const bool easiest_negative = prefers_least_similar(rule.negative);
  const Winners<T> negative =
      run_pass(rows, columns, pass_for(false, easiest_negative), semihard, workers,
               [&](int64_t i) { return semihard ? semihard_range<T>(rule, positive_order[i]) : unlimited_range<T>(); });
  std::vector<Index> without;
  for (int64_t i = 0; i < rows.count(); ++i) {
    const Index anchor = rows.order()[i];
    if (is_candidate(negative.index[i])) {
      write(anchor, easiest_negative ? -negative.key[i] : negative.key[i], negative.index[i], out.negative_index,
            out.negative_similarity);
    } else {
      without.push_back(anchor);
    }
  }

  // Usually few anchors lack a semi-hard negative: a pass of their own is cheaper than tracking a fallback for all.
  if (semihard && rule.semihard_fallback != Fallback::kNone && !without.empty()) {
    const bool easiest = rule.semihard_fallback == Fallback::kEasiest;
    const SortedRows<T> rest(anchors, depth, scale, &without, true, false, workers);
    PairPass<T> pass = pass_for(false, easiest);
    pass.symmetric = false;
    const Winners<T> fallback =
        run_pass(rest, columns, pass, false, workers, [&](int64_t) { return unlimited_range<T>(); });
    for (int64_t i = 0; i < rest.count(); ++i) {
      if (!is_candidate(fallback.index[i])) continue;
      write(rest.order()[i], easiest ? -fallback.key[i] : fallback.key[i], fallback.index[i], out.negative_index,
            out.negative_similarity);
    }
  }
  return finite;
}

template bool select_triplets(const SelectionRule&, const LabelledRows<float>&, const LabelledRows<float>*, int64_t,
                              const Workers&, const SelectionOut<float>&);
template bool select_triplets(const SelectionRule&, const LabelledRows<double>&, const LabelledRows<double>*, int64_t,
                              const Workers&, const SelectionOut<double>&);

}  // namespace hardmine::cpu
