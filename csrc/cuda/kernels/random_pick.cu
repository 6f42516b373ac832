#include "cuda/kernels/random_pick.h"

#include <limits>

#include "core/int_math.h"
#include "cuda/device/collectives.h"

namespace hardmine::cuda {
namespace {

constexpr int kPickThreads = 128;
constexpr int64_t kPickWarps = kPickThreads / 32;

template <class MmaPolicy>
__global__ void __launch_bounds__(kPickThreads, 4)
    pick_random_kernel(RandomPickParams<MmaPolicy> params, const double* uniform, typename MmaPolicy::acc_t upper,
                       PackedCandidate<typename MmaPolicy::acc_t>* best) {
  using acc_t = typename MmaPolicy::acc_t;
  constexpr acc_t kInfinity = std::numeric_limits<acc_t>::infinity();
  const PackedMatrix<MmaPolicy>&rows = params.anchors.rows, &columns = params.candidates.rows;
  acc_t* scratch = reinterpret_cast<acc_t*>(shared_memory()) + 32 * warp_index();
  // Labels decide, except if keys may be NaN or above the bound.
  const bool has_nonfinite = block_any_nonfinite(rows.finite, finite_flag_count(rows.count)) ||
                             block_any_nonfinite(columns.finite, finite_flag_count(columns.count));
  const bool needs_keys = has_nonfinite || upper < kInfinity;
  for (int64_t row = int64_t{blockIdx.x} * kPickWarps + warp_index(); row < rows.count;
       row += int64_t{gridDim.x} * kPickWarps) {
    const int64_t label = params.anchors.label[row];
    // With the bits of a tile's score, so that the key of a pick compares with those of other candidates.
    const auto keys_of_columns = [&](int64_t first) {
      return key_from_score(MmaPolicy::kSquaredDifferences, make_row(rows, columns, row, first, scratch));
    };
    // The candidates among 32 columns, as a bit mask.
    const auto candidates_from = [&](int64_t first) {
      const int64_t column = first + lane_index();
      const bool candidate = column < columns.count &&
                             (params.candidates.label[column] == label) == params.same_class &&
                             !(params.symmetric && column == row) && !params.ids.exclude(row, column);
      const uint32_t bits = __ballot_sync(kFullWarp, candidate);
      if (!needs_keys || bits == 0) return bits;
      const acc_t key = keys_of_columns(first);  // on all lanes
      return __ballot_sync(kFullWarp, candidate && key <= upper);
    };
    Index count = 0;
    for (int64_t first = 0; first < columns.count; first += 32) count += __popc(candidates_from(first));
    if (count == 0) {
      if (lane_index() == 0) best[row] = no_candidate<acc_t>();
      continue;
    }
    Index rank = drawn_rank(uniform[row], count);
    int64_t first = 0;
    uint32_t bits = candidates_from(first);
    for (; __popc(bits) <= rank; bits = candidates_from(first)) {
      rank -= __popc(bits);
      first += 32;
    }
    for (; rank > 0; --rank) bits &= bits - 1;
    const int lane = __popc((bits & (0u - bits)) - 1);
    const acc_t key = keys_of_columns(first);
    if (lane_index() == lane) best[row] = PackedCandidate<acc_t>::of(key, static_cast<Index>(first + lane));
  }
}

}  // namespace

template <class MmaPolicy>
void pick_random(const RandomPickParams<MmaPolicy>& params, const double* uniform, typename MmaPolicy::acc_t upper,
                 PackedCandidate<typename MmaPolicy::acc_t>* best, const Stream& stream) {
  launch(
      "pick_random", pick_random_kernel<MmaPolicy>,
      {ceil_div(params.anchors.rows.count, kPickWarps), kPickThreads, kPickThreads * sizeof(typename MmaPolicy::acc_t)},
      stream, params, uniform, upper, best);
}

#define HARDMINE_INSTANTIATE(MmaPolicy) template decltype(pick_random<MmaPolicy>) pick_random<MmaPolicy>;
HARDMINE_INSTANTIATE(Bfloat16Products)
HARDMINE_INSTANTIATE(Float16Products)
HARDMINE_INSTANTIATE(Tf32Products)
HARDMINE_INSTANTIATE(FloatProducts)
HARDMINE_INSTANTIATE(FloatSquaredDifferences)
HARDMINE_INSTANTIATE(DoubleProducts)
HARDMINE_INSTANTIATE(DoubleSquaredDifferences)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cuda
