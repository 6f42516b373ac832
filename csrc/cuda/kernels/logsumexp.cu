// Forward: one pass over all tiles per set of anchors. A block owns a panel of anchors and visits a split of the
// columns; then the splits are merged per anchor.

#include "cuda/kernels/logsumexp.h"

#include "core/int_math.h"
#include "cuda/device/collectives.h"
#include "cuda/kernels/logsumexp_panel.h"

namespace hardmine::cuda {
namespace {

constexpr int64_t kTargetBlocks = 512;  // enough to occupy a GPU
constexpr int kEpilogueThreads = 256;

template <class MmaPolicy, PairQuantity kQuantity, Ids kIds>
__global__ void __launch_bounds__(kTileThreads, 2) logsumexp_kernel(LogSumExpParams<MmaPolicy> params) {
  const int64_t panels = panels_of<MmaPolicy>(params.rows.count);
  for (int64_t i = blockIdx.x; i < panels * params.num_splits; i += gridDim.x)
    LogSumExpPanel<MmaPolicy, kQuantity, kIds>(params, i % panels, i / panels).run();
}

// Merges the splits, and writes the results of the anchors.
template <class acc_t>
struct LogSumExpEpilogue {
  int64_t count, num_splits;
  const double* temperature;
  LogSumExpPartials<acc_t> partials;
  FiniteFlags<2> finite;  // of the rows and, with refs, of the columns
  LogSumExpState<acc_t> state;
  acc_t* log_sum;
  acc_t* positive_similarity;  // null: not wanted
  int64_t* positive_count;

  __device__ __forceinline__ void write(int64_t i, bool propagate_nan) const {
    constexpr acc_t kNan = std::numeric_limits<acc_t>::quiet_NaN();
    const auto log2e_over_temperature = static_cast<acc_t>(kLog2E / *temperature);
    RunningLogSumExp<acc_t> running = partials.running[i];
    for (int64_t split = 1; split < num_splits; ++split)
      running.add(partials.running[split * count + i], log2e_over_temperature);
    const bool found = running.shift != RunningLogSumExp<acc_t>::kNothing;
    state.shift[i] = propagate_nan ? kNan : found ? running.shift : acc_t(0);
    state.sum[i] = propagate_nan ? kNan : found ? static_cast<acc_t>(running.sum) : acc_t(0);
    state.mean_offset[i] = propagate_nan ? kNan : found ? static_cast<acc_t>(running.offset / running.sum) : acc_t(0);
    log_sum[i] = propagate_nan ? kNan : found ? static_cast<acc_t>(std::log(running.sum)) : -HUGE_VALF;
    if (!positive_similarity) return;
    double sum = 0;
    int64_t positives = 0;
    for (int64_t split = 0; split < num_splits; ++split) {
      sum += partials.positive_sum[split * count + i];
      positives += partials.positive_count[split * count + i];
    }
    positive_count[i] = positives;
    positive_similarity[i] = propagate_nan   ? kNan
                             : positives > 0 ? static_cast<acc_t>(sum / static_cast<double>(positives))
                                             : acc_t(0);
  }
};

template <class acc_t>
__global__ void __launch_bounds__(kEpilogueThreads, 4) finalize_logsumexps_kernel(LogSumExpEpilogue<acc_t> epilogue) {
  const bool propagate_nan = epilogue.finite.block_any_nonfinite();
  for (int64_t i = int64_t{blockIdx.x} * kEpilogueThreads + threadIdx.x; i < epilogue.count;
       i += int64_t{gridDim.x} * kEpilogueThreads)
    epilogue.write(i, propagate_nan);
}

}  // namespace

template <class MmaPolicy, class Scalar>
void logsumexp(const LogSumExpRule& rule, const double* temperature, const LabeledMatrix<Scalar>& anchors,
               const LabeledMatrix<Scalar>* refs, int64_t depth, const LogSumExpOut<typename MmaPolicy::acc_t>& out,
               Workspace& workspace, const Stream& stream, const typename MmaPolicy::acc_t* bound) {
  using acc_t = typename MmaPolicy::acc_t;
  const PairMeasure measure = measure_of(rule.similarity);
  const LabeledMatrix<Scalar>& others = refs ? *refs : anchors;
  const auto rows = pack_matrix<MmaPolicy>(anchors.x, anchors.count, depth, measure, workspace, stream);
  const auto columns = refs ? pack_matrix<MmaPolicy>(refs->x, refs->count, depth, measure, workspace, stream) : rows;

  const auto run = [&](const PackedMatrix<MmaPolicy>& x, const LabeledMatrix<Scalar>& of, const auto& y,
                       const LabeledMatrix<Scalar>& among, const LogSumExpState<acc_t>& state, acc_t* log_sum,
                       bool positives) {
    if (of.count == 0) return;
    LogSumExpParams<MmaPolicy> params{};
    params.rows = x;
    params.columns = y;
    params.row_label = of.label;
    params.column_label = among.label;
    params.symmetric = refs == nullptr;
    params.ids = {of.id, among.id};
    const int64_t row_panels = panels_of<MmaPolicy>(of.count), column_panels = panels_of<MmaPolicy>(among.count);
    params.num_splits = std::max<int64_t>(1, std::min(ceil_div(kTargetBlocks, row_panels), column_panels));
    params.pairs = rule.pairs;
    params.logit = pair_logit<acc_t>(rule);
    params.bound = bound;
    params.temperature = temperature;
    const int64_t num_partials = params.num_splits * of.count;
    params.partials = {
        .running = workspace.array<RunningLogSumExp<acc_t>>(num_partials),
        .positive_sum = positives ? workspace.array<double>(num_partials) : nullptr,
        .positive_count = positives ? workspace.array<int64_t>(num_partials) : nullptr,
    };
    const auto kernel = with_pair_quantity<MmaPolicy>(rule.similarity, [&]<PairQuantity kQuantity>() {
      return params.ids.given() ? logsumexp_kernel<MmaPolicy, kQuantity, Ids::kGiven>
                                : logsumexp_kernel<MmaPolicy, kQuantity, Ids::kNone>;
    });
    launch("logsumexp", kernel,
           {row_panels * params.num_splits, kTileThreads, MmaPolicy::kSharedBytes + TileLabels<MmaPolicy>::kBytes},
           stream, params);
    const LogSumExpEpilogue<acc_t> epilogue{
        .count = of.count,
        .num_splits = params.num_splits,
        .temperature = temperature,
        .partials = params.partials,
        .finite = {{rows.finite, columns.finite},
                   {finite_flag_count(anchors.count), refs ? finite_flag_count(refs->count) : 0}},
        .state = state,
        .log_sum = log_sum,
        .positive_similarity = positives ? out.positive_similarity : nullptr,
        .positive_count = positives ? out.positive_count : nullptr,
    };
    launch("finalize_logsumexps", finalize_logsumexps_kernel<acc_t>,
           {ceil_div(of.count, kEpilogueThreads), kEpilogueThreads}, stream, epilogue);
  };
  run(rows, anchors, columns, others, out.rows, out.log_sum, rule.positives);
  if (rule.of_columns) run(columns, *refs, rows, anchors, out.columns, out.column_log_sum, false);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(logsumexp<MmaPolicy, Scalar>) logsumexp<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
