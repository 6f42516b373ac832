// With w the gradient of the measure of a pair (x, y), the pair adds to the gradient of row x
//   inner product:              w y
//   negative distance:          (w / d) (y - x), d = |y - x|; 0 at d = 0, the subgradient of PyTorch's norm
//   negative squared distance:  2 w (y - x)
//   negative hyperbolic:        w slope (y - x), of core/hyperbolic.h, which leaves the rest to the caller.
// All are symmetric in x and y, so both endpoints of a pair are handled alike. If rows are normalized, x and y stand
// for x / |x| and y / |y|, and the sum is projected through x / |x|.

#include "cpu/engine/pair_gradient.h"

#include <optional>
#include <vector>

#include "cpu/engine/normalized_rows.h"

namespace hardmine::cpu {
namespace {

// List entries, or gathered rows, between two checks for cancellation. Each may have a thousand pairs.
constexpr int64_t kEntriesPerChunk = 1024, kGatheredRowsPerChunk = 16;

enum class Endpoint { kLeft, kRight };

// Per row of a range, the pairs that have the row at one endpoint, in the order of the list (CSR).
template <class T>
class RowToPairs {
 public:
  RowToPairs(Endpoint endpoint, const PairList<T>& pairs, const RowRange& range, const ThreadPool& pool)
      : pairs_(pairs), first_(range.first), sorted_(endpoint == Endpoint::kRight || pairs.left) {
    if (!sorted_) return;
    // Calls use(place in the range, partner, gradient) for the pairs of rows in the range.
    const auto for_each_in_range = [&](const auto& use) {
      for_each_listed(pool, [&](int64_t left, int64_t right, T gradient) {
        const int64_t place = (endpoint == Endpoint::kLeft ? left : right) - range.first;
        if (place >= 0 && place < range.count) use(place, endpoint == Endpoint::kLeft ? right : left, gradient);
      });
    };
    begin_.resize(range.count + 1, 0);
    for_each_in_range([&](int64_t place, int64_t, T) { ++begin_[place + 1]; });
    for (int64_t r = 0; r < range.count; ++r) begin_[r + 1] += begin_[r];
    pair_ = Buffer<Pair>(begin_[range.count]);
    WorkspaceVector<int64_t> next(begin_.begin(), begin_.end() - 1);
    for_each_in_range([&](int64_t place, int64_t partner, T gradient) {
      pair_[next[place]++] = {static_cast<Index>(partner), gradient};
    });
  }

  // Calls use(partner, gradient) for each pair of the row.
  template <class Use>
  void for_each(int64_t row, const Use& use) const {
    if (sorted_) {
      const int64_t place = row - first_;
      for (int64_t p = begin_[place]; p < begin_[place + 1]; ++p) use(pair_[p].partner, pair_[p].gradient);
    } else if (row < pairs_.count) {
      for_each_of_entry(row, [&](int64_t, int64_t right, T gradient) { use(right, gradient); });
    }
  }

 private:
  struct Pair {
    Index partner;
    T gradient;
  };

  template <class Use>
  void for_each_of_entry(int64_t e, const Use& use) const {
    const int64_t left = pairs_.left ? pairs_.left[e] : e;
    for (int64_t p = e * pairs_.partners; p < (e + 1) * pairs_.partners; ++p)
      if (pairs_.right[p] >= 0 && pairs_.gradient[p] != T(0)) use(left, pairs_.right[p], pairs_.gradient[p]);
  }
  template <class Use>
  void for_each_listed(const ThreadPool& pool, const Use& use) const {
    for (int64_t e = 0; e < pairs_.count; ++e) {
      if ((e + 1) % kEntriesPerChunk == 0) throw_if_cancelled(pool);
      for_each_of_entry(e, use);
    }
  }

  const PairList<T>& pairs_;
  const int64_t first_;
  const bool sorted_;
  WorkspaceVector<int64_t> begin_;  // [rows of the range + 1]
  Buffer<Pair> pair_;
};

// acc += the gradient of row `self` from one pair, before the projection, if the measure is a distance.
template <class T>
void add_distance(const RowKernels<T>& kernel, const PairMeasure& measure, const NormalizedRows<T>& rows, int64_t self,
                  const NormalizedRows<T>& partners, int64_t partner, T weight, int64_t depth, T* acc) {
  const T *x = rows.row(self), *y = partners.row(partner);
  switch (measure.quantity) {
    case PairQuantity::kInnerProduct:
      return;
    case PairQuantity::kNegativeDistance: {
      const T d = kernel.distance(x, y, depth);
      if (d != T(0)) kernel.add_scaled_difference(acc, weight / d, y, x, depth);
      return;
    }
    case PairQuantity::kNegativeHyperbolicDistance: {
      const T gap_x = x[depth - 1], gap_y = y[depth - 1];
      const T score = hyperbolic_score(kernel.squared_distance(x, y, depth - 1), gap_x, gap_y);
      kernel.add_scaled_difference(acc, weight * hyperbolic_slope(score, gap_x, gap_y), y, x, depth);
      return;
    }
    case PairQuantity::kNegativeSquaredDistance:
      kernel.add_scaled_difference(acc, 2 * weight, y, x, depth);
      return;
  }
}

}  // namespace

template <class T>
bool all_finite(const T* x, int64_t count, int64_t depth, const ThreadPool& pool) {
  return Norms<T>(x, count, depth, pool).finite;
}

template <class T>
void pair_gradient(const PairMeasure& measure, const MatrixPair<T>& rows, const PairList<T>& pairs,
                   const ThreadPool& pool, const RowRange& range, T* grad_x, T* grad_refs) {
  if (!grad_x && !grad_refs) return;
  const RowKernels<T>& kernel = kernels<RowKernels<T>>();
  const int64_t depth = rows.depth;
  const UnitRows unit_rows = is_distance(measure) ? UnitRows::kStored : UnitRows::kNotStored;
  const NormalizedRows<T> x(measure, rows.x, rows.count, depth, unit_rows, pool);
  std::optional<NormalizedRows<T>> refs;
  if (rows.refs) refs.emplace(measure, rows.refs, rows.ref_count, depth, unit_rows, pool);
  const NormalizedRows<T>& right_rows = refs ? *refs : x;

  // `as_left`: the pairs that have the row on the left; `as_right`: those that have it on the right.
  const auto gather = [&](const NormalizedRows<T>& target_rows, const RowRange& targets, const RowToPairs<T>* as_left,
                          const RowToPairs<T>* as_right, T* grad) {
    // Counts one endpoint per pair: the estimate need not be exact.
    const double endpoints = static_cast<double>(targets.count) + static_cast<double>(pairs.count * pairs.partners);
    const int64_t threads = thread_count_for(pool, endpoints * static_cast<double>(depth), kElementGrain);
    const bool of_products = measure.quantity == PairQuantity::kInnerProduct;
    const auto gather_rows = [&](int64_t begin, int64_t end) {
      std::vector<const T*> summands;  // of products: partners and their weights
      std::vector<T> weights;
      summands.reserve(kGatheredRowsPerChunk);
      weights.reserve(kGatheredRowsPerChunk);
      for (int64_t r = targets.first + begin; r < targets.first + end; ++r) {
        T* acc = grad + (r - targets.first) * depth;
        summands.clear();
        weights.clear();
        bool any = false;
        const auto add_from = [&](const NormalizedRows<T>& partners) {
          return [&](int64_t partner, T gradient) {
            any = true;
            if (!of_products)
              return add_distance(kernel, measure, target_rows, r, partners, partner, gradient, depth, acc);
            summands.push_back(partners.raw(partner));
            weights.push_back(measure.normalized ? gradient / partners.norm(partner) : gradient);
          };
        };
        if (!of_products) std::fill_n(acc, depth, T(0));
        if (!measure.normalized || has_direction(target_rows.norm(r))) {
          if (as_left) as_left->for_each(r, add_from(right_rows));
          if (as_right) as_right->for_each(r, add_from(x));
        }
        if (of_products)
          kernel.weighted_sum(summands.data(), weights.data(), static_cast<int64_t>(weights.size()), depth, acc);
        // A row without pairs has gradient 0, even if the row is not finite.
        if (!measure.normalized || !any) continue;
        project(kernel, acc, target_rows.raw(r), target_rows.norm(r), depth);
      }
    };
    parallel_range(pool, threads, targets.count, 1, gather_rows, kGatheredRowsPerChunk);
  };

  if (grad_x) {
    const RowToPairs<T> as_left(Endpoint::kLeft, pairs, range, pool);
    if (refs) {
      gather(x, range, &as_left, nullptr, grad_x);
    } else {
      const RowToPairs<T> as_right(Endpoint::kRight, pairs, range, pool);
      gather(x, range, &as_left, &as_right, grad_x);
    }
  }
  if (grad_refs && refs) {
    const RowRange all{0, rows.ref_count};
    const RowToPairs<T> as_right(Endpoint::kRight, pairs, all, pool);
    gather(*refs, all, nullptr, &as_right, grad_refs);
  }
}

template decltype(all_finite<float>) all_finite<float>;
template void pair_gradient(const PairMeasure&, const MatrixPair<float>&, const PairList<float>&, const ThreadPool&,
                            const RowRange&, float*, float*);
template decltype(all_finite<double>) all_finite<double>;
template void pair_gradient(const PairMeasure&, const MatrixPair<double>&, const PairList<double>&, const ThreadPool&,
                            const RowRange&, double*, double*);

}  // namespace hardmine::cpu
