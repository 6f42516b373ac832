#include "cpu/engine/given_triplets.h"

#include "cpu/engine/normalized_rows.h"
#include "cpu/engine/pair_gradient.h"

namespace hardmine::cpu {
namespace {

template <class T>
T measure_pair(const RowKernels<T>& kernel, const PairMeasure& measure, const T* x, const T* y, int64_t depth) {
  if (measure.quantity == PairQuantity::kInnerProduct) return clamped_measure(measure, kernel.dot(x, y, depth));
  return measure.quantity == PairQuantity::kNegativeDistance ? -kernel.distance(x, y, depth)
                                                             : -kernel.squared_distance(x, y, depth);
}

}  // namespace

std::string first_invalid_triplet(const TripletList& triplets, int64_t row_count) {
  for (int64_t t = 0; t < triplets.count; ++t) {
    const int64_t* row = triplets.rows + 3 * t;
    if (is_triplet(row, row_count)) continue;
    for (int64_t k = 0; k < 3; ++k) {
      if (row[k] >= 0 && row[k] < row_count) continue;
      return "triplets must lie in [0, B) = [0, " + std::to_string(row_count) + "), got " + std::to_string(row[k]) +
             " at [" + std::to_string(t) + ", " + std::to_string(k) + "]";
    }
    return "triplets must be of three different rows each, got [" + std::to_string(row[0]) + ", " +
           std::to_string(row[1]) + ", " + std::to_string(row[2]) + "] at [" + std::to_string(t) + "]";
  }
  return "";
}

template <class T>
bool measure_triplets(const PairMeasure& measure, const T* x, int64_t row_count, int64_t depth,
                      const TripletList& triplets, const ThreadPool& pool, T* positive, T* negative) {
  const RowKernels<T>& kernel = kernels<RowKernels<T>>();
  const NormalizedRows<T> rows(measure, x, row_count, depth, true, pool);
  const double work = 2.0 * static_cast<double>(triplets.count) * static_cast<double>(depth);
  parallel_range(pool, thread_count_for(pool, work, kElementGrain), triplets.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t* triplet = triplets.rows + 3 * t;
      const T* anchor = rows.row(triplet[0]);
      positive[t] = measure_pair(kernel, measure, anchor, rows.row(triplet[1]), depth);
      negative[t] = measure_pair(kernel, measure, anchor, rows.row(triplet[2]), depth);
    }
  });
  return measure.normalized ? rows.finite() : all_finite(x, row_count, depth, pool);
}

template bool measure_triplets(const PairMeasure&, const float*, int64_t, int64_t, const TripletList&,
                               const ThreadPool&, float*, float*);
template bool measure_triplets(const PairMeasure&, const double*, int64_t, int64_t, const TripletList&,
                               const ThreadPool&, double*, double*);

}  // namespace hardmine::cpu
