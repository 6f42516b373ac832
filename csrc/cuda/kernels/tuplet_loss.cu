// Forward: one pass over all tiles. A block owns a panel of anchors and visits a split of the columns; then the splits
// are merged per anchor. If all positives count, a second pass visits the tiles that have positives.

#include "cuda/kernels/tuplet_loss.h"

#include "core/int_math.h"
#include "cuda/device/collectives.h"
#include "cuda/kernels/tuplet_panel.h"

namespace hardmine::cuda {
namespace {

constexpr int64_t kTargetBlocks = 512;  // enough to occupy a GPU
constexpr int kEpilogueThreads = 256;   // and anchors per chunk

template <class MmaPolicy, Ids kIds>
__global__ void __launch_bounds__(kTileThreads, 2) tuplet_logsumexp_kernel(TupletParams<MmaPolicy> params) {
  const int64_t panels = panels_of<MmaPolicy>(params.rows.count);
  for (int64_t i = blockIdx.x; i < panels * params.num_splits; i += gridDim.x)
    TupletPanel<MmaPolicy, kIds>(params, i % panels, i / panels).logsumexp();
}

template <class MmaPolicy, Ids kIds>
__global__ void __launch_bounds__(kTileThreads, 2) softplus_sums_kernel(TupletParams<MmaPolicy> params) {
  const int64_t panels = panels_of<MmaPolicy>(params.rows.count);
  for (int64_t i = blockIdx.x; i < panels * params.num_splits; i += gridDim.x)
    TupletPanel<MmaPolicy, kIds>(params, i % panels, i / panels).softplus_sums();
}

// Merges the splits, and computes the outputs and the loss.
template <class acc_t>
struct TupletEpilogue {
  TupletRule rule;
  bool all, positive_negated;
  int64_t count, num_splits;
  acc_t log2e_over_temperature;
  LogSumExpPartials<acc_t> logsumexp;
  SoftplusPartials softplus;
  acc_t* log_sum;         // [count]; only if all positives count
  FiniteFlags<2> finite;  // of the rows and, with refs, of the columns
  double* partial;        // [chunks, 2]: the values and the number of valid anchors
  int32_t* blocks_done;   // [1], starts at 0
  TupletOut<acc_t> out;

  HARDMINE_HD int64_t chunks() const { return ceil_div(count, kEpilogueThreads); }

  // The outputs that depend on the first pass only.
  __device__ __forceinline__ void write_logsumexp(int64_t i) const {
    if (out.block.sum) {
      write_sums(i, out.block.shift[i], static_cast<double>(out.block.sum[i]));
      write_positive(i, no_candidate<acc_t>());
      return;
    }
    RunningSum<acc_t> running{logsumexp.shift[i], logsumexp.sum[i]};
    PackedCandidate<acc_t> best = logsumexp.best[i];
    for (int64_t split = 1; split < num_splits; ++split) {
      const int64_t place = split * count + i;
      running.add(logsumexp.shift[place], logsumexp.sum[place], log2e_over_temperature);
      if (logsumexp.best[place].beats(best)) best = logsumexp.best[place];
    }
    write_sums(i, running.sum > 0 ? running.shift : acc_t(0), running.sum);
    write_positive(i, best);
  }

  __device__ __forceinline__ void write_sums(int64_t i, acc_t shift, double sum) const {
    const double log_of = log_of_sum(sum);
    out.shift[i] = shift;
    out.sum[i] = static_cast<acc_t>(sum);
    out.logsumexp[i] = static_cast<acc_t>(static_cast<double>(shift) / rule.temperature + log_of);
    if (log_sum) log_sum[i] = static_cast<acc_t>(log_of);
  }

  __device__ __forceinline__ void write_positive(int64_t i, const PackedCandidate<acc_t>& best) const {
    const bool found = !all && is_candidate(best.index());
    out.positive_index[i] = found ? best.index() : -1;
    out.positive_similarity[i] =
        found ? similarity_from_key(rule.similarity, (positive_negated ? -best.key() : best.key()) + acc_t(0))
              : acc_t(0);
  }

  // Writes the anchor's slope and count, and returns its term; 0 for an invalid anchor.
  __device__ __forceinline__ acc_t write_term(int64_t i) const {
    double value = 0, slope = 0;
    int64_t positives = 0;
    if (all && !out.block.only_logsumexp) {
      for (int64_t split = 0; split < num_splits; ++split) {
        const int64_t place = split * count + i;
        value += softplus.value[place];
        slope += softplus.slope[place];
        positives += softplus.count[place];
      }
    } else {  // -1 with only_logsumexp
      positives = out.positive_index[i] >= 0;
    }
    const bool counts = is_valid_tuplet(positives, static_cast<double>(out.sum[i]));
    if (counts && all) {
      value /= static_cast<double>(positives);
      slope /= static_cast<double>(positives);
    } else if (counts) {
      const TupletTerm term =
          tuplet_term(static_cast<double>(out.shift[i]), log_of_sum(static_cast<double>(out.sum[i])),
                      static_cast<double>(out.positive_similarity[i]), rule.temperature);
      value = term.value;
      slope = term.slope;
    }
    out.slope[i] = counts ? static_cast<acc_t>(slope) : acc_t(0);
    out.positive_count[i] = counts ? positives : 0;
    return counts ? static_cast<acc_t>(value) : acc_t(0);
  }
};

template <class acc_t>
__global__ void __launch_bounds__(kEpilogueThreads, 4) finalize_logsumexp_kernel(TupletEpilogue<acc_t> epilogue) {
  for (int64_t i = int64_t{blockIdx.x} * kEpilogueThreads + threadIdx.x; i < epilogue.count;
       i += int64_t{gridDim.x} * kEpilogueThreads)
    epilogue.write_logsumexp(i);
}

template <class acc_t>
__global__ void __launch_bounds__(kEpilogueThreads, 4) finalize_tuplets_kernel(TupletEpilogue<acc_t> epilogue) {
  const acc_t nan = std::numeric_limits<acc_t>::quiet_NaN();
  const bool reduces = epilogue.rule.reduction != Reduction::kNone;
  auto* exchange = reinterpret_cast<double*>(shared_memory());                   // [2 * kMaxWarps]
  const bool propagate_nan = !reduces && epilogue.finite.block_any_nonfinite();  // divergence is never hidden
  for (int64_t chunk = blockIdx.x; chunk < epilogue.chunks(); chunk += gridDim.x) {
    const int64_t i = chunk * kEpilogueThreads + threadIdx.x;
    double sum[2] = {0, 0};
    if (i < epilogue.count) {
      if (!epilogue.all) epilogue.write_logsumexp(i);
      const acc_t value = epilogue.write_term(i);
      if (!reduces) epilogue.out.loss[i] = propagate_nan ? nan : value;
      if (propagate_nan && epilogue.out.block.only_logsumexp) epilogue.out.sum[i] = nan;
      sum[0] = static_cast<double>(value);
      sum[1] = epilogue.out.positive_count[i] > 0;
    }
    if (!reduces) continue;
    block_reduce_sum<2>(sum, exchange);
    if (threadIdx.x == 0) {
      epilogue.partial[2 * chunk] = sum[0];
      epilogue.partial[2 * chunk + 1] = sum[1];
    }
  }
  if (!reduces || !grid_is_last_block(epilogue.blocks_done)) return;
  __syncthreads();
  double sum[2];
  block_reduce_partials<2>(epilogue.partial, epilogue.chunks(), sum, exchange);
  const bool has_nonfinite = epilogue.finite.block_any_nonfinite();
  if (threadIdx.x != 0) return;
  *epilogue.out.loss =
      has_nonfinite
          ? nan
          : static_cast<acc_t>(sum[0] * tuplet_loss_weight(epilogue.rule.reduction, static_cast<int64_t>(sum[1])));
}

}  // namespace

template <class MmaPolicy, class Scalar>
void tuplet_loss(const TupletRule& rule, const LabeledMatrix<Scalar>& anchors, const LabeledMatrix<Scalar>* refs,
                 int64_t depth, const TupletOut<typename MmaPolicy::acc_t>& out, Workspace& workspace,
                 const Stream& stream) {
  using acc_t = typename MmaPolicy::acc_t;
  const int64_t count = anchors.count;
  const bool all = rule.positive == TupletPositive::kAll;
  const PairMeasure measure = measure_of(rule.similarity);
  SelectionStart<acc_t> start;
  start.blocks_done = workspace.array<int32_t>(1);

  TupletParams<MmaPolicy> params{};
  params.rows = pack_matrix<MmaPolicy>(anchors.x, count, depth, measure, workspace, stream, start);
  params.columns = refs ? pack_matrix<MmaPolicy>(refs->x, refs->count, depth, measure, workspace, stream) : params.rows;
  params.row_label = anchors.label;
  params.column_label = refs ? refs->label : anchors.label;
  params.symmetric = refs == nullptr;
  params.ids = {anchors.id, refs ? refs->id : anchors.id};
  const int64_t row_panels = panels_of<MmaPolicy>(count), column_panels = panels_of<MmaPolicy>(params.columns.count);
  if (row_panels > 0)
    params.num_splits = std::max<int64_t>(1, std::min(ceil_div(kTargetBlocks, row_panels), column_panels));
  const int64_t num_partials = params.num_splits * count;

  const SelectionRule selection = tuplet_selection(rule);
  const KeyRange<acc_t> range = positive_range<acc_t>(selection);
  const bool negated = prefers_least_similar(selection.positive);
  params.selects = !all;
  params.sign =
      acc_t(negated == MmaPolicy::kSquaredDifferences ? 1 : -1);  // the smallest squared difference is the most similar
  params.upper = range.upper;
  params.start = start_candidate(range);
  params.one_shift = one_shift_suffices(rule);
  params.log2e_over_temperature = static_cast<acc_t>(kLog2E / rule.temperature);
  params.logsumexp = {workspace.array<PackedCandidate<acc_t>>(num_partials), workspace.array<acc_t>(num_partials),
                      workspace.array<double>(num_partials)};

  TupletEpilogue<acc_t> epilogue{};
  epilogue.rule = rule;
  epilogue.all = all;
  epilogue.positive_negated = negated;
  epilogue.count = count;
  epilogue.num_splits = params.num_splits;
  epilogue.log2e_over_temperature = params.log2e_over_temperature;
  epilogue.logsumexp = params.logsumexp;
  epilogue.finite = {{params.rows.finite, params.columns.finite},
                     {finite_flag_count(count), refs ? finite_flag_count(refs->count) : 0}};
  epilogue.partial = workspace.array<double>(2 * epilogue.chunks());
  epilogue.blocks_done = start.blocks_done;
  epilogue.out = out;

  const Grid tiles{row_panels * params.num_splits, kTileThreads, tuplet_shared_bytes<MmaPolicy>()};
  if (!out.block.sum)
    launch("tuplet_logsumexp",
           params.ids.given() ? tuplet_logsumexp_kernel<MmaPolicy, Ids::kGiven>
                              : tuplet_logsumexp_kernel<MmaPolicy, Ids::kNone>,
           tiles, stream, params);
  if (all) {
    epilogue.log_sum = workspace.array<acc_t>(count);
    launch("finalize_logsumexp", finalize_logsumexp_kernel<acc_t>, {epilogue.chunks(), kEpilogueThreads}, stream,
           epilogue);
  }
  if (all && !out.block.only_logsumexp) {
    params.limit = max_key(rule.similarity, static_cast<acc_t>(rule.duplicate_threshold));
    params.inverse_temperature = static_cast<acc_t>(1 / rule.temperature);
    params.shift = out.shift;
    params.log_sum = epilogue.log_sum;
    params.softplus = {workspace.array<double>(num_partials), workspace.array<double>(num_partials),
                       workspace.array<int64_t>(num_partials)};
    epilogue.softplus = params.softplus;
    launch(
        "softplus_sums",
        params.ids.given() ? softplus_sums_kernel<MmaPolicy, Ids::kGiven> : softplus_sums_kernel<MmaPolicy, Ids::kNone>,
        tiles, stream, params);
  }
  launch("finalize_tuplets", finalize_tuplets_kernel<acc_t>,
         {std::max<int64_t>(1, epilogue.chunks()), kEpilogueThreads, 2 * kMaxWarps * sizeof(double)}, stream, epilogue);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(tuplet_loss<MmaPolicy, Scalar>) tuplet_loss<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
