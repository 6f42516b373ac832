#include "random_pick.h"

#include <limits>

#include "block_sum.h"

namespace hardmine::cuda {
namespace {

constexpr int kPickThreads = 128;

// The order of a pair, computed by a warp from the rows as they are given; the same bits in every lane.
template <class Number, class Scalar>
HARDMINE_DEVICE Number order_of_pair(const PickPass<Scalar>& pass, int64_t row, int64_t column, Number row_divisor) {
  const Scalar *x = pass.rows.x + row * pass.depth, *y = pass.columns.x + column * pass.depth;
  const Number column_divisor = pass.normalised ? divisor_of_norm(norm_of_row<Number>(y, pass.depth)) : Number(1);
  Number sum = 0;
  for (int64_t k = lane_index(); k < pass.depth; k += 32) {
    Number a = to_number(x[k]), b = to_number(y[k]);
    if (pass.normalised) {
      a /= row_divisor;
      b /= column_divisor;
    }
    sum = pass.squares ? fma(a - b, a - b, sum) : fma(a, b, sum);
  }
  sum = sum_of_warp(sum);
  return pass.squares ? -sum : sum;
}

template <class Scalar, class Number>
HARDMINE_KERNEL(kPickThreads, 4)
pick_random_kernel(PickPass<Scalar> pass, const double* number, Number upper, Ranked<Number>* best) {
  // Labels tell the candidates, unless orders may be NaN or beyond a bound.
  const bool infinite = block_finds_infinite(pass.rows.finite, row_groups(pass.rows.count)) ||
                        block_finds_infinite(pass.columns.finite, row_groups(pass.columns.count));
  const bool by_order = infinite || upper < std::numeric_limits<Number>::infinity();
  const int64_t warps = block_size() / 32;
  for (int64_t row = block_index() * warps + warp_index(); row < pass.rows.count; row += grid_size() * warps) {
    const int64_t label = pass.rows.label[row];
    const Number divisor =
        pass.normalised ? divisor_of_norm(norm_of_row<Number>(pass.rows.x + row * pass.depth, pass.depth)) : Number(1);
    // The candidates among 32 columns, as the bits of a word.
    const auto candidates_from = [&](int64_t first) {
      const int64_t column = first + lane_index();
      const bool candidate = column < pass.columns.count && (pass.columns.label[column] == label) == pass.same_class &&
                             !(pass.symmetric && column == row);
      uint32_t bits = ballot(candidate);
      if (!by_order) return bits;
      uint32_t kept = 0;
      for (int lane = 0; lane < 32; ++lane)
        if (bits >> lane & 1 && order_of_pair<Number>(pass, row, first + lane, divisor) <= upper) kept |= 1u << lane;
      return kept;
    };
    Index count = 0;
    for (int64_t first = 0; first < pass.columns.count; first += 32) count += count_bits(candidates_from(first));
    Ranked<Number> picked = Ranked<Number>::of(-std::numeric_limits<Number>::infinity(), kBelowRange);
    if (count > 0) {
      Index rank = drawn_rank(number[row], count);
      int64_t first = 0;
      uint32_t bits = candidates_from(first);
      for (; count_bits(bits) <= rank; bits = candidates_from(first)) {
        rank -= count_bits(bits);
        first += 32;
      }
      for (; rank > 0; --rank) bits &= bits - 1;
      const int64_t column = first + count_bits((bits & (0u - bits)) - 1);
      picked = Ranked<Number>::of(order_of_pair<Number>(pass, row, column, divisor), static_cast<Index>(column));
    }
    if (lane_index() == 0) best[row] = picked;
  }
}

}  // namespace

template <class Scalar, class Number>
void pick_random(const PickPass<Scalar>& pass, const double* number, Number upper, Ranked<Number>* best,
                 const Stream& stream) {
  constexpr int64_t kWarps = kPickThreads / 32;
  launch("pick_random", pick_random_kernel<Scalar, Number>, {(pass.rows.count + kWarps - 1) / kWarps, kPickThreads},
         stream, pass, number, upper, best);
}

template void pick_random(const PickPass<BFloat16>&, const double*, float, Ranked<float>*, const Stream&);
template void pick_random(const PickPass<Float16>&, const double*, float, Ranked<float>*, const Stream&);
template void pick_random(const PickPass<float>&, const double*, float, Ranked<float>*, const Stream&);
template void pick_random(const PickPass<double>&, const double*, double, Ranked<double>*, const Stream&);

}  // namespace hardmine::cuda
