// Forward: one pass over all tiles. A block owns a panel of queries and visits a split of the keys; then the splits are
// added up per query. Backward: the derivatives by all similarities of a strip.

#include "cuda/kernels/sigmoid_loss.h"

#include "core/int_math.h"
#include "cuda/device/collectives.h"
#include "cuda/gemm/tile_labels.h"

namespace hardmine::cuda {
namespace {

constexpr int64_t kTargetBlocks = 512;  // enough to occupy a GPU
constexpr int kThreads = 256;

template <class MmaPolicy>
struct SigmoidParams : PairwiseOperands<MmaPolicy> {
  using acc_t = typename MmaPolicy::acc_t;
  const double* logit;  // [2]: scale and bias
  // Forward:
  int64_t num_splits;
  SigmoidSums* sums;  // [num_splits, rows]
  // Backward:
  const acc_t *row_gradient, *column_gradient;  // of the value of each query; null: the rows are keys
  int64_t first_row, last_row;                  // rows of the strip; first_row begins a panel
  acc_t* weight;                                // [last_row - first_row, columns]: the output
};

// x of a pair, and -z.
template <class acc_t>
struct SigmoidTerm {
  acc_t x, sign;
  __device__ __forceinline__ SigmoidTerm(const Logit<acc_t>& logit, acc_t similarity, bool positive)
      : sign(positive ? acc_t(-1) : acc_t(1)) {
    x = sign * fma(similarity, logit.scale, logit.bias);
  }
  __device__ __forceinline__ acc_t slope() const { return sign * hardmine::sigmoid(x); }
};

template <class acc_t>
__device__ __forceinline__ Logit<acc_t> read_logit(const double* logit) {
  return {static_cast<acc_t>(logit[0]), static_cast<acc_t>(logit[1])};
}

template <class MmaPolicy>
class SigmoidPanel {
  using acc_t = typename MmaPolicy::acc_t;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;

 public:
  __device__ __forceinline__ SigmoidPanel(const SigmoidParams<MmaPolicy>& params, int64_t row_panel, int64_t split)
      : params_(params),
        labels_(shared_memory() + MmaPolicy::kSharedBytes),
        logit_(read_logit<acc_t>(params.logit)),
        row_panel_(row_panel),
        split_(split) {}

  __device__ __forceinline__ void run() {
    const int64_t panels = panels_of<MmaPolicy>(params_.columns.count),
                  end = panels * (split_ + 1) / params_.num_splits;
    SigmoidSums sums;
    for (int64_t panel = panels * split_ / params_.num_splits; panel < end; ++panel) {
      labels_.read(params_, row_panel_ * kTile, panel * kTile);
      make_tile(params_.rows, params_.columns, row_panel_, panel, fragment_);
      add(panel * kTile, sums);
      __syncthreads();  // before the labels and the engine's memory are reused
    }
    const int64_t row = row_panel_ * kTile + threadIdx.x;
    if (threadIdx.x < kTile && row < params_.rows.count) params_.sums[split_ * params_.rows.count + row] = sums;
  }

 private:
  // Where the two warps of a row meet, [2][kTile] per array. The engine's memory is free here.
  static __device__ __forceinline__ acc_t* exchange(int array) {
    return reinterpret_cast<acc_t*>(shared_memory()) + array * 2 * kTile;
  }
  // The sum over the four lanes of a row.
  static __device__ __forceinline__ acc_t sum_of_row(acc_t value) {
    value += __shfl_xor_sync(kFullWarp, value, 1);
    return value + __shfl_xor_sync(kFullWarp, value, 2);
  }

  __device__ __forceinline__ void add(int64_t first_column, SigmoidSums& sums) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t label = labels_.row[MmaPolicy::row(r)];
      acc_t total[3] = {0, 0, 0};
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        if (first_column + MmaPolicy::column(c) >= params_.columns.count) continue;
        const acc_t similarity = similarity_from_score(MmaPolicy::kSquaredDifferences, fragment_.at[r][c]);
        const SigmoidTerm<acc_t> term(logit_, similarity, labels_.column[MmaPolicy::column(c)] == label);
        const acc_t slope = term.slope();
        total[0] += hardmine::softplus(term.x);
        total[1] += slope * similarity;
        total[2] += slope;
      }
#pragma unroll
      for (int k = 0; k < 3; ++k) {
        const acc_t sum = sum_of_row(total[k]);
        if (lane_index() % 4 == 0) exchange(k)[warp_index() % 2 * kTile + MmaPolicy::row(r)] = sum;
      }
    }
    __syncthreads();
    if (threadIdx.x < kTile) {
      for (int half = 0; half < 2; ++half) {
        const int64_t place = half * kTile + threadIdx.x;
        sums.value += static_cast<double>(exchange(0)[place]);
        sums.by_scale += static_cast<double>(exchange(1)[place]);
        sums.by_bias += static_cast<double>(exchange(2)[place]);
      }
    }
  }

  const SigmoidParams<MmaPolicy>& params_;
  const TileLabels<MmaPolicy> labels_;
  const Logit<acc_t> logit_;
  const int64_t row_panel_, split_;
  Fragment<MmaPolicy> fragment_;
};

template <class MmaPolicy>
__global__ void __launch_bounds__(kTileThreads, 2) sigmoid_sums_kernel(SigmoidParams<MmaPolicy> params) {
  const int64_t panels = panels_of<MmaPolicy>(params.rows.count);
  for (int64_t i = blockIdx.x; i < panels * params.num_splits; i += gridDim.x)
    SigmoidPanel<MmaPolicy>(params, i % panels, i / panels).run();
}

// Adds up the splits.
template <class acc_t>
struct SigmoidEpilogue {
  int64_t count, num_splits;
  const SigmoidSums* sums;  // [num_splits, count]
  FiniteFlags<2> finite;
  SigmoidOut<acc_t> out;
};

template <class acc_t>
__global__ void __launch_bounds__(kThreads, 4) finalize_sigmoid_kernel(SigmoidEpilogue<acc_t> epilogue) {
  const bool propagate_nan = epilogue.finite.block_any_nonfinite();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < epilogue.count;
       i += int64_t{gridDim.x} * kThreads) {
    SigmoidSums sums = epilogue.sums[i];
    for (int64_t split = 1; split < epilogue.num_splits; ++split) {
      const SigmoidSums& more = epilogue.sums[split * epilogue.count + i];
      sums.value += more.value;
      sums.by_scale += more.by_scale;
      sums.by_bias += more.by_bias;
    }
    epilogue.out.value[i] = static_cast<acc_t>(propagate_nan ? nan : sums.value);
    epilogue.out.by_scale[i] = static_cast<acc_t>(propagate_nan ? nan : sums.by_scale);
    epilogue.out.by_bias[i] = static_cast<acc_t>(propagate_nan ? nan : sums.by_bias);
  }
}

template <class MmaPolicy>
class SigmoidWeightTile {
  using acc_t = typename MmaPolicy::acc_t;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;

 public:
  __device__ __forceinline__ explicit SigmoidWeightTile(const SigmoidParams<MmaPolicy>& params)
      : params_(params), labels_(shared_memory() + MmaPolicy::kSharedBytes), logit_(read_logit<acc_t>(params.logit)) {}

  __device__ __forceinline__ void visit(int64_t row_panel, int64_t column_panel) {
    const int64_t first_row = row_panel * kTile, first_column = column_panel * kTile;
    labels_.read(params_, first_row, first_column);
    make_tile(params_.rows, params_.columns, row_panel, column_panel, fragment_);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first_row + MmaPolicy::row(r);
      if (row >= params_.last_row) continue;
      const int64_t label = labels_.row[MmaPolicy::row(r)];
      acc_t* const weight_row = params_.weight + (row - params_.first_row) * params_.columns.count;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t column = first_column + MmaPolicy::column(c);
        if (column >= params_.columns.count) continue;
        const acc_t score = fragment_.at[r][c];
        const SigmoidTerm<acc_t> term(logit_, similarity_from_score(MmaPolicy::kSquaredDifferences, score),
                                      labels_.column[MmaPolicy::column(c)] == label);
        const acc_t gradient = params_.row_gradient ? params_.row_gradient[row] : params_.column_gradient[column];
        acc_t weight = gradient * logit_.scale * term.slope();
        if constexpr (MmaPolicy::kSquaredDifferences) {
          // s = -d, so ds / dx = (y - x) / d. At d = 0 the subgradient is 0, as in PyTorch's norm.
          weight = score >= std::numeric_limits<acc_t>::min() ? weight / std::sqrt(score) : acc_t(0);
        }
        weight_row[column] = weight;
      }
    }
    __syncthreads();  // before the next tile's labels
  }

 private:
  const SigmoidParams<MmaPolicy>& params_;
  const TileLabels<MmaPolicy> labels_;
  const Logit<acc_t> logit_;
  Fragment<MmaPolicy> fragment_;
};

template <class MmaPolicy>
__global__ void __launch_bounds__(kTileThreads, 2) sigmoid_weights_kernel(SigmoidParams<MmaPolicy> params) {
  SigmoidWeightTile<MmaPolicy> tile(params);
  const int64_t columns = panels_of<MmaPolicy>(params.columns.count), first = params.first_row / MmaPolicy::kTile;
  const int64_t rows = panels_of<MmaPolicy>(params.last_row - params.first_row);
  for (int64_t i = blockIdx.x; i < rows * columns; i += gridDim.x) tile.visit(first + i % rows, i / rows);
}

template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kThreads, 2)
    start_sigmoid_gradient_kernel(RowStats<Scalar, acc_t> rows, RowStats<Scalar, acc_t> columns) {
  compute_row_stats(rows);
  compute_row_stats(columns);
}

template <class MmaPolicy>
constexpr size_t sigmoid_shared_bytes() {
  return MmaPolicy::kSharedBytes + TileLabels<MmaPolicy>::kBytes;
}

}  // namespace

template <class MmaPolicy, class Scalar>
void sigmoid_loss(const SigmoidRule& rule, const double* logit, const LabeledMatrix<Scalar>& queries,
                  const LabeledMatrix<Scalar>& keys, int64_t depth, const SigmoidOut<typename MmaPolicy::acc_t>& out,
                  Workspace& workspace, const Stream& stream) {
  using acc_t = typename MmaPolicy::acc_t;
  const int64_t count = queries.count;
  if (count == 0) return;
  const PairMeasure measure = measure_of(rule.similarity);
  SigmoidParams<MmaPolicy> params{};
  params.rows = pack_matrix<MmaPolicy>(queries.x, count, depth, measure, workspace, stream);
  params.columns = pack_matrix<MmaPolicy>(keys.x, keys.count, depth, measure, workspace, stream);
  params.row_label = queries.label;
  params.column_label = keys.label;
  params.logit = logit;
  const int64_t row_panels = panels_of<MmaPolicy>(count), column_panels = panels_of<MmaPolicy>(keys.count);
  params.num_splits = std::max<int64_t>(1, std::min(ceil_div(kTargetBlocks, row_panels), column_panels));
  params.sums = workspace.array<SigmoidSums>(params.num_splits * count);
  launch("sigmoid_sums", sigmoid_sums_kernel<MmaPolicy>,
         {row_panels * params.num_splits, kTileThreads, sigmoid_shared_bytes<MmaPolicy>()}, stream, params);
  const SigmoidEpilogue<acc_t> epilogue{
      .count = count,
      .num_splits = params.num_splits,
      .sums = params.sums,
      .finite = {{params.rows.finite, params.columns.finite},
                 {finite_flag_count(count), finite_flag_count(keys.count)}},
      .out = out,
  };
  launch("finalize_sigmoid", finalize_sigmoid_kernel<acc_t>, {ceil_div(count, kThreads), kThreads}, stream, epilogue);
}

template <class MmaPolicy, class Scalar>
void sigmoid_loss_gradient(const SigmoidRule& rule, const double* logit, const LabeledMatrix<Scalar>& queries,
                           const LabeledMatrix<Scalar>& keys, int64_t depth,
                           const typename MmaPolicy::acc_t* grad_value, const GradientOut<Scalar>& out,
                           Workspace& workspace, const Stream& stream, int64_t strip_weights) {
  using acc_t = typename MmaPolicy::acc_t;
  using Operand = GradientOperand<MmaPolicy, Scalar>;
  const StripGradient<MmaPolicy, Scalar> gradient(rule.similarity, depth, strip_weights, workspace, stream);
  const Operand x = gradient.operand(queries), y = gradient.operand(keys);
  const int64_t blocks = finite_flag_count(std::max<int64_t>({1, queries.count, keys.count}));
  launch("start_sigmoid_gradient", start_sigmoid_gradient_kernel<Scalar, acc_t>,
         {std::min<int64_t>(blocks, 4096), kThreads}, stream, x.stats, y.stats);
  const auto run = [&](const Operand& rows, const acc_t* row_gradient, const Operand& columns,
                       const acc_t* column_gradient, Scalar* grad) {
    SigmoidParams<MmaPolicy> params{};
    params.rows = rows.packed;
    params.columns = columns.packed;
    params.row_label = rows.rows.label;
    params.column_label = columns.rows.label;
    params.logit = logit;
    params.row_gradient = row_gradient;
    params.column_gradient = column_gradient;
    gradient.run(rows, columns, false, grad, [&](int64_t tiles, int64_t first, int64_t last, acc_t* weight) {
      params.first_row = first;
      params.last_row = last;
      params.weight = weight;
      launch("sigmoid_weights", sigmoid_weights_kernel<MmaPolicy>,
             {tiles, kTileThreads, sigmoid_shared_bytes<MmaPolicy>()}, stream, params);
    });
  };
  if (out.x) run(x, grad_value, y, nullptr, out.x);
  if (out.refs) run(y, nullptr, x, grad_value, out.refs);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar)                                       \
  template decltype(sigmoid_loss<MmaPolicy, Scalar>) sigmoid_loss<MmaPolicy, Scalar>; \
  template decltype(sigmoid_loss_gradient<MmaPolicy, Scalar>) sigmoid_loss_gradient<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
