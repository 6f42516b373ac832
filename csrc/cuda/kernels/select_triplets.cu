// A selection is one pass over the tiles, or two if an anchor's positive bounds its semi-hard negative. The first pass
// then selects positives, and the fallbacks of anchors without a semi-hard negative. In float32 every unordered pair of
// panels is visited once, and blocks meet in an atomic maximum. Float64 has no such atomic: each block owns rows and
// visits all their tiles.

#include "cuda/kernels/select_triplets.h"

#include <type_traits>

#include "core/int_math.h"
#include "cuda/gemm/tile_grid.h"
#include "cuda/kernels/random_pick.h"
#include "cuda/kernels/select_epilogue.h"
#include "cuda/kernels/select_tile.h"

namespace hardmine::cuda {
namespace {

// Up to this many anchors, the last block of the last pass runs the epilogue: one launch less, where launches dominate.
constexpr int64_t kMaxFusedEpilogueRows = 2048;
constexpr int kEpilogueThreads = 256;

template <class MmaPolicy>
constexpr bool kAtomic = std::is_same_v<typename MmaPolicy::acc_t, float>;

template <class MmaPolicy, Ids kIds>
__global__ void __launch_bounds__(kTileThreads, 2)
    select_tiles_kernel(SelectionParams<MmaPolicy> params, TileGrid grid, bool fuses_epilogue,
                        SelectionEpilogue<typename MmaPolicy::acc_t> epilogue) {
  SelectTile<MmaPolicy, kIds> tile(params);
  if constexpr (kAtomic<MmaPolicy>) {
    for (int64_t i = blockIdx.x; i < grid.size(); i += gridDim.x) {
      const TilePlace place = grid.at(i);
      if (grid.has(place)) tile.visit(place.row, place.column, grid.symmetric);
    }
  } else {
    for (int64_t row = blockIdx.x; row < grid.rows; row += gridDim.x)
      for (int64_t column = 0; column < grid.columns; ++column) tile.visit(row, column, false);
  }
  if (fuses_epilogue && grid_is_last_block(epilogue.blocks_done)) finalize_selection(epilogue, true, shared_memory());
}

template <class acc_t>
__global__ void __launch_bounds__(kEpilogueThreads, 4) finalize_selection_kernel(SelectionEpilogue<acc_t> epilogue) {
  finalize_selection(epilogue, false, shared_memory());
}

// The initial state and the upper bound of every anchor's semi-hard negative. `given_key` replaces `positive` unless
// null.
template <class acc_t>
__global__ void __launch_bounds__(kEpilogueThreads, 4)
    start_semihard_kernel(SelectionRule rule, const PackedCandidate<acc_t>* positive, const acc_t* given_key,
                          int64_t count, PackedCandidate<acc_t>* best, acc_t* upper) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const acc_t key = positive[i].key();
    const acc_t order = !is_candidate(positive[i].index())     ? std::numeric_limits<acc_t>::quiet_NaN()
                        : prefers_least_similar(rule.positive) ? -key
                                                               : key;
    const KeyRange<acc_t> range = semihard_range(rule, given_key ? given_key[i] : order);
    best[i] = start_candidate(range);
    upper[i] = range.upper;
  }
}

}  // namespace

template <class MmaPolicy, class Scalar>
void select_triplets(const SelectionRule& rule, const LabeledMatrix<Scalar>& anchors, const LabeledMatrix<Scalar>* refs,
                     int64_t depth, const RandomNumbers& random, const SelectionOut<typename MmaPolicy::acc_t>& out,
                     const LossOut<typename MmaPolicy::acc_t>& loss, Workspace& workspace, const Stream& stream) {
  using acc_t = typename MmaPolicy::acc_t;
  constexpr acc_t kInfinity = std::numeric_limits<acc_t>::infinity();
  const int64_t count = anchors.count;
  const bool symmetric = refs == nullptr;
  const PairMeasure measure = measure_of(rule.similarity);
  const bool random_positive = rule.positive == Positive::kRandom, random_negative = rule.negative == Negative::kRandom;
  const bool semihard = rule.negative == Negative::kSemihard;
  const bool falls_back = semihard && rule.semihard_fallback != Fallback::kNone;

  // best[0]: positives, [1]: negatives, [2]: fallbacks of semi-hard negatives.
  const KeyRange<acc_t> positives = positive_range<acc_t>(rule);
  SelectionStart<acc_t> start;
  for (int s = 0; s < SelectionStart<acc_t>::kMaxSelections; ++s) {
    if (s == 2 && !falls_back) continue;
    start.best[s] = workspace.array<PackedCandidate<acc_t>>(count);
    start.value[s] = start_candidate(s == 0 && !random_positive ? positives : unlimited_range<acc_t>());
  }
  start.blocks_done = workspace.array<int32_t>(1);
  const PackedMatrix<MmaPolicy> rows =
      pack_matrix<MmaPolicy>(anchors.x, count, depth, measure, workspace, stream, start);
  const PackedMatrix<MmaPolicy> columns =
      refs ? pack_matrix<MmaPolicy>(refs->x, refs->count, depth, measure, workspace, stream) : rows;

  SelectionEpilogue<acc_t> epilogue{
      .count = count,
      .similarity = rule.similarity,
      .positive = start.best[0],
      .negative = start.best[1],
      .fallback = start.best[2],
      .positive_negated = prefers_least_similar(rule.positive),
      .negative_negated = prefers_least_similar(rule.negative),
      .fallback_negated = rule.semihard_fallback == Fallback::kEasiest,
      .finite = {{rows.finite, columns.finite},
                 {finite_flag_count(count), symmetric ? 0 : finite_flag_count(columns.count)}},
      .out = out,
      .loss = loss,
      .partial = nullptr,
      .blocks_done = start.blocks_done,
  };

  const TileGrid grid{panels_of<MmaPolicy>(count), panels_of<MmaPolicy>(columns.count), symmetric};
  // The smallest squared difference is the most similar.
  const auto spec = [](PackedCandidate<acc_t>* best, bool least_similar, acc_t limit, const acc_t* upper) {
    return SelectionSpec<acc_t>{.best = best,
                                .upper = upper,
                                .limit = limit,
                                .sign = acc_t(least_similar == MmaPolicy::kSquaredDifferences ? 1 : -1)};
  };
  const SelectionSpec<acc_t> none{};
  const int64_t* const column_label = refs ? refs->label : anchors.label;
  const PairIds ids{.row = anchors.id, .column = refs ? refs->id : anchors.id};
  const bool has_tiles = grid.size() > 0;
  bool finalized = false;
  const auto run = [&](const SelectionSpec<acc_t>& positive, const SelectionSpec<acc_t>& negative, bool bounded,
                       bool is_last) {
    if (!has_tiles || (!positive.best && !negative.best)) return;
    const SelectionParams<MmaPolicy> params{{.rows = rows,
                                             .columns = columns,
                                             .row_label = anchors.label,
                                             .column_label = column_label,
                                             .symmetric = symmetric,
                                             .ids = ids},
                                            bounded,
                                            positive,
                                            negative};
    finalized = is_last && count <= kMaxFusedEpilogueRows;
    launch("select_tiles",
           ids.given() ? select_tiles_kernel<MmaPolicy, Ids::kGiven> : select_tiles_kernel<MmaPolicy, Ids::kNone>,
           {kAtomic<MmaPolicy> ? grid.size() : grid.rows, kTileThreads, select_shared_bytes<MmaPolicy>()}, stream,
           params, grid, finalized, epilogue);
  };

  const bool bounded_positives = positives.upper < kInfinity;
  const bool selects_negatives = out.selects_negatives(rule.negative);
  const SelectionSpec<acc_t> positive = random_positive || !out.selects_positives()
                                            ? none
                                            : spec(start.best[0], epilogue.positive_negated, positives.upper, nullptr);
  SelectionSpec<acc_t> negative = none;
  if (falls_back) negative = spec(start.best[2], epilogue.fallback_negated, kInfinity, nullptr);
  if (!semihard && !random_negative) negative = spec(start.best[1], epilogue.negative_negated, kInfinity, nullptr);
  run(positive, negative, !random_positive && bounded_positives,
      (!semihard || !selects_negatives) && !random_positive && !random_negative);
  const auto pick = [&](const double* uniform, bool same_class, acc_t upper, PackedCandidate<acc_t>* best) {
    pick_random<MmaPolicy>(
        {
            .anchors = {rows, anchors.label},
            .candidates = {columns, column_label},
            .ids = ids,
            .symmetric = symmetric,
            .same_class = same_class,
        },
        uniform, upper, best, stream);
  };
  if (random_positive && has_tiles) pick(random.positive, true, positives.upper, start.best[0]);
  if (random_negative && has_tiles) pick(random.negative, false, kInfinity, start.best[1]);
  if (semihard && selects_negatives && has_tiles) {
    acc_t* upper = workspace.array<acc_t>(count);
    launch("start_semihard", start_semihard_kernel<acc_t>, {ceil_div(count, kEpilogueThreads), kEpilogueThreads},
           stream, rule, static_cast<const PackedCandidate<acc_t>*>(start.best[0]), out.given_positive_key, count,
           start.best[1], upper);
    run(none, spec(start.best[1], false, kInfinity, upper), true, true);
  }
  if (finalized) return;
  const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(ceil_div(count, kEpilogueThreads), 1024));
  epilogue.partial = workspace.array<double>(blocks * kTermSums);
  launch("finalize_selection", finalize_selection_kernel<acc_t>,
         {blocks, kEpilogueThreads, kSelectionEpilogueSharedBytes}, stream, epilogue);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(select_triplets<MmaPolicy, Scalar>) select_triplets<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
