// Backward: from the scores of a strip to the derivatives by all its similarities. A weight sums the derivatives of all
// its anchors. Refs get a pass of their own.

#include "core/int_math.h"
#include "cuda/device/collectives.h"
#include "cuda/gemm/tile_labels.h"
#include "cuda/kernels/logsumexp.h"

namespace hardmine::cuda {
namespace {

constexpr int kStartThreads = 256;

// LogSumExpCoefficients as arrays, [anchors] each.
template <class acc_t>
struct CoefficientArrays {
  acc_t* weight;  // null: the rows of this operand are not anchors
  acc_t* shift;
  acc_t* positive_weight;  // null: none
  const acc_t* bound;      // null: none
};

// Computes the coefficients of the anchors among the rows of an operand.
template <class acc_t>
struct CoefficientStart {
  int64_t count;
  const double* temperature;
  SavedLogSumExp<acc_t> saved;
  const acc_t* grad_positive;
  const int64_t* positive_count;
  CoefficientArrays<acc_t> coefficients;

  __device__ __forceinline__ void run() const {
    if (!coefficients.weight) return;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
      const LogSumExpCoefficients<acc_t> of_anchor =
          logsumexp_coefficients(saved.gradient[i], saved.shift[i], saved.sum[i], *temperature);
      coefficients.weight[i] = of_anchor.weight;
      coefficients.shift[i] = of_anchor.shift;
      if (coefficients.positive_weight)
        coefficients.positive_weight[i] = positive_coefficient(grad_positive[i], positive_count[i]);
    }
  }
};

template <class Scalar, class acc_t>
__global__ void __launch_bounds__(kStartThreads, 2)
    start_logsumexp_gradient_kernel(CoefficientStart<acc_t> of_rows, CoefficientStart<acc_t> of_columns,
                                    RowStats<Scalar, acc_t> rows, RowStats<Scalar, acc_t> columns) {
  of_rows.run();
  of_columns.run();
  compute_row_stats(rows);
  compute_row_stats(columns);
}

template <class MmaPolicy>
struct LogSumExpWeightParams : PairwiseOperands<MmaPolicy> {
  using acc_t = typename MmaPolicy::acc_t;
  CoefficientArrays<acc_t> row_coefficients, column_coefficients;
  LogSumExpPairs pairs;
  PairLogit<acc_t> logit;
  const double* temperature;    // [1]
  int64_t first_row, last_row;  // rows of the strip; first_row begins a panel
  acc_t* weight;                // [last_row - first_row, columns]: the output
};

// The coefficients of one row of a pair.
template <class acc_t>
struct LogSumExpAnchor : LogSumExpCoefficients<acc_t> {
  acc_t positive_weight = 0, bound = -std::numeric_limits<acc_t>::infinity();

  __device__ __forceinline__ LogSumExpAnchor(const CoefficientArrays<acc_t>& coefficients, int64_t i, int64_t count) {
    if (!coefficients.weight || i >= count) return;
    this->weight = coefficients.weight[i];
    this->shift = coefficients.shift[i];
    if (coefficients.positive_weight) positive_weight = coefficients.positive_weight[i];
    if (coefficients.bound) bound = coefficients.bound[i];
  }
  __device__ __forceinline__ acc_t of_pair(acc_t signed_similarity, acc_t logit, acc_t log2e_over_temperature) const {
    if (signed_similarity <= bound) return 0;
    return this->weight * std::exp2((logit - this->shift) * log2e_over_temperature);
  }
};

template <class MmaPolicy, PairQuantity kQuantity, Ids kIds>
class LogSumExpWeightTile {
  using acc_t = typename MmaPolicy::acc_t;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;

 public:
  __device__ __forceinline__ explicit LogSumExpWeightTile(const LogSumExpWeightParams<MmaPolicy>& params)
      : params_(params),
        labels_(shared_memory() + MmaPolicy::kSharedBytes),
        log2e_over_temperature_(static_cast<acc_t>(kLog2E / *params.temperature)) {}

  __device__ __forceinline__ void visit(int64_t row_panel, int64_t column_panel) {
    const int64_t first_row = row_panel * kTile, first_column = column_panel * kTile;
    labels_.read(params_, first_row, first_column);
    make_candidate_tile<kIds>(params_.rows, params_.columns, params_.ids, row_panel, column_panel, fragment_);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first_row + MmaPolicy::row(r);
      if (row >= params_.last_row) continue;
      const LogSumExpAnchor<acc_t> of_row(params_.row_coefficients, row, params_.rows.count);
      const int64_t label = labels_.row[MmaPolicy::row(r)];
      acc_t* const weight_row = params_.weight + (row - params_.first_row) * params_.columns.count;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t column = first_column + MmaPolicy::column(c);
        if (column >= params_.columns.count) continue;
        const LogSumExpAnchor<acc_t> of_column(params_.column_coefficients, column, params_.columns.count);
        const bool is_self = params_.symmetric && row == column;
        const acc_t score = fragment_.at[r][c];
        acc_t weight =
            is_self ? acc_t(0) : weight_of(of_row, of_column, score, label == labels_.column[MmaPolicy::column(c)]);
        if constexpr (kQuantity == PairQuantity::kNegativeHyperbolicDistance)
          if (weight != acc_t(0))
            weight *= hyperbolic_slope(score, params_.rows.factor[row] * params_.columns.factor[column]);
        weight_row[column] = weight;
      }
    }
    __syncthreads();  // before the next tile's labels
  }

 private:
  __device__ __forceinline__ acc_t weight_of(const LogSumExpAnchor<acc_t>& row, const LogSumExpAnchor<acc_t>& column,
                                             acc_t score, bool same_class) const {
    if (score != score) return 0;  // NaN: excluded by ids
    acc_t weight = 0;
    if (same_class ? params_.pairs != LogSumExpPairs::kNegative : params_.pairs != LogSumExpPairs::kPositive) {
      const acc_t similarity = similarity_from_score(kQuantity, score);
      const acc_t d = params_.logit.signed_similarity(similarity), x = params_.logit.value(similarity);
      weight = row.of_pair(d, x, log2e_over_temperature_) + column.of_pair(d, x, log2e_over_temperature_);
      weight *= params_.logit.slope(similarity);
    }
    if (same_class) weight += row.positive_weight + column.positive_weight;
    if constexpr (kQuantity == PairQuantity::kNegativeDistance) {
      // s = -d, so ds / dx = (y - x) / d. At d = 0 the subgradient is 0, as in PyTorch's norm.
      weight = score >= std::numeric_limits<acc_t>::min() ? weight / std::sqrt(score) : acc_t(0);
    }
    return weight;
  }

  const LogSumExpWeightParams<MmaPolicy>& params_;
  const TileLabels<MmaPolicy> labels_;
  const acc_t log2e_over_temperature_;
  Fragment<MmaPolicy> fragment_;
};

template <class MmaPolicy, PairQuantity kQuantity, Ids kIds>
__global__ void __launch_bounds__(kTileThreads, 2) logsumexp_weights_kernel(LogSumExpWeightParams<MmaPolicy> params) {
  LogSumExpWeightTile<MmaPolicy, kQuantity, kIds> tile(params);
  const int64_t columns = panels_of<MmaPolicy>(params.columns.count), first = params.first_row / MmaPolicy::kTile;
  const int64_t rows = panels_of<MmaPolicy>(params.last_row - params.first_row);
  for (int64_t i = blockIdx.x; i < rows * columns; i += gridDim.x) tile.visit(first + i % rows, i / rows);
}

}  // namespace

template <class MmaPolicy, class Scalar>
void logsumexp_gradient(const LogSumExpRule& rule, const double* temperature, const LabeledMatrix<Scalar>& anchors,
                        const LabeledMatrix<Scalar>* refs, int64_t depth,
                        const LogSumExpSaved<typename MmaPolicy::acc_t>& saved, const GradientOut<Scalar>& out,
                        Workspace& workspace, const Stream& stream, int64_t strip_weights) {
  using acc_t = typename MmaPolicy::acc_t;
  using Operand = GradientOperand<MmaPolicy, Scalar>;
  const StripGradient<MmaPolicy, Scalar> gradient(rule.similarity, depth, strip_weights, workspace, stream);
  const Operand x = gradient.operand(anchors), y = refs ? gradient.operand(*refs) : Operand{};
  const auto start_of = [&](int64_t count, const SavedLogSumExp<acc_t>& from, const acc_t* grad_positive,
                            const acc_t* bound) {
    CoefficientStart<acc_t> start{};
    start.count = count;
    start.temperature = temperature;
    start.saved = from;
    start.grad_positive = grad_positive;
    start.positive_count = saved.positive_count;
    start.coefficients = {
        .weight = workspace.array<acc_t>(count),
        .shift = workspace.array<acc_t>(count),
        .positive_weight = grad_positive ? workspace.array<acc_t>(count) : nullptr,
        .bound = bound,
    };
    return start;
  };
  const CoefficientStart<acc_t> of_x = start_of(anchors.count, saved.rows, saved.grad_positive, saved.bound);
  const CoefficientStart<acc_t> of_y =
      rule.of_columns ? start_of(refs->count, saved.columns, nullptr, nullptr) : CoefficientStart<acc_t>{};
  const int64_t most = std::max(anchors.count, refs ? refs->count : 0);
  const int64_t blocks = std::max<int64_t>({1, ceil_div(most, kStartThreads), finite_flag_count(most)});
  launch("start_logsumexp_gradient", start_logsumexp_gradient_kernel<Scalar, acc_t>,
         {std::min<int64_t>(blocks, 4096), kStartThreads}, stream, of_x, of_y, x.stats, y.stats);

  const auto run = [&](const Operand& rows, const CoefficientArrays<acc_t>& of_rows, const Operand& columns,
                       const CoefficientArrays<acc_t>& of_columns, Scalar* grad) {
    LogSumExpWeightParams<MmaPolicy> params{};
    params.rows = rows.packed;
    params.columns = columns.packed;
    params.row_label = rows.rows.label;
    params.column_label = columns.rows.label;
    params.symmetric = refs == nullptr;
    params.ids = {rows.rows.id, columns.rows.id};
    params.row_coefficients = of_rows;
    params.column_coefficients = of_columns;
    params.pairs = rule.pairs;
    params.logit = pair_logit<acc_t>(rule);
    params.temperature = temperature;
    gradient.run(rows, columns, params.symmetric, grad, [&](int64_t tiles, int64_t first, int64_t last, acc_t* weight) {
      params.first_row = first;
      params.last_row = last;
      params.weight = weight;
      const auto kernel = with_pair_quantity<MmaPolicy>(rule.similarity, [&]<PairQuantity kQuantity>() {
        return params.ids.given() ? logsumexp_weights_kernel<MmaPolicy, kQuantity, Ids::kGiven>
                                  : logsumexp_weights_kernel<MmaPolicy, kQuantity, Ids::kNone>;
      });
      launch("logsumexp_weights", kernel,
             {tiles, kTileThreads, MmaPolicy::kSharedBytes + TileLabels<MmaPolicy>::kBytes}, stream, params);
    });
  };
  if (out.x) run(x, of_x.coefficients, refs ? y : x, refs ? of_y.coefficients : of_x.coefficients, out.x);
  if (refs && out.refs) run(y, of_y.coefficients, x, of_x.coefficients, out.refs);
}

#define HARDMINE_INSTANTIATE(MmaPolicy, Scalar) \
  template decltype(logsumexp_gradient<MmaPolicy, Scalar>) logsumexp_gradient<MmaPolicy, Scalar>;
HARDMINE_FOR_EVERY_MMA_POLICY(HARDMINE_INSTANTIATE)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
