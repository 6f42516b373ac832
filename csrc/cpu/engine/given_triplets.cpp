#include "cpu/engine/given_triplets.h"

#include "cpu/engine/normalized_rows.h"
#include "cpu/engine/pair_gradient.h"

namespace hardmine::cpu {
namespace {

template <class T>
T measure_pair(const RowKernels<T>& kernel, const PairMeasure& measure, const T* x, const T* y, int64_t depth) {
  const bool product = !is_distance(measure);
  return measure_from_sum(measure, product ? kernel.dot(x, y, depth) : kernel.squared_distance(x, y, depth));
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
  const NormalizedRows<T> rows(measure, x, row_count, depth, UnitRows::kStored, pool);
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

template <class Loss, class T>
void loss_of_triplets(const PairMeasure& measure, const Loss& loss, const T* x, int64_t row_count, int64_t depth,
                      const TripletList& triplets, const ThreadPool& pool, const TripletLossOut<T>& out) {
  const int64_t count = triplets.count;
  const bool finite = measure_triplets(measure, x, row_count, depth, triplets, pool, out.positive, out.negative);
  for (T* kept : {out.positive, out.negative})
    for (int64_t t = 0; t < count; ++t) kept[t] = kept_measure(loss, kept[t]);
  if (finite) {
    reduce_triplets(loss, out.positive, out.negative, count, out.loss);
  } else {  // divergence is never hidden
    std::fill_n(out.loss, is_reduced(loss) ? 1 : count, std::numeric_limits<T>::quiet_NaN());
  }
}

template <class Loss, class T>
void loss_of_triplets_gradient(const PairMeasure& measure, const Loss& loss, const T* x, int64_t row_count,
                               int64_t depth, const TripletList& triplets, const TripletLossGradient<T>& gradient,
                               const ThreadPool& pool, T* grad_x) {
  if (!all_finite(x, row_count, depth, pool)) {
    std::fill_n(grad_x, row_count * depth, std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const int64_t count = triplets.count;
  const Buffer<T> d_positive(count), d_negative(count), d_measure(2 * count);
  const Buffer<int64_t> left(count), right(2 * count);
  reduce_triplets_backward(loss, gradient, count, d_positive.get(), d_negative.get());
  for (int64_t t = 0; t < count; ++t) {
    if (gradient.grad_positive) d_positive[t] += gradient.grad_positive[t];
    if (gradient.grad_negative) d_negative[t] += gradient.grad_negative[t];
    const int64_t* triplet = triplets.rows + 3 * t;
    left[t] = triplet[0];
    right[2 * t] = triplet[1];
    right[2 * t + 1] = triplet[2];
    d_measure[2 * t] = kept_measure_backward(loss, d_positive[t]);
    d_measure[2 * t + 1] = kept_measure_backward(loss, d_negative[t]);
  }
  const PairList<T> pairs{
      .left = left.get(), .right = right.get(), .gradient = d_measure.get(), .count = count, .partners = 2};
  pair_gradient<T>(measure, {.x = x, .count = row_count, .refs = nullptr, .ref_count = 0, .depth = depth}, pairs, pool,
                   grad_x, nullptr);
}

#define HARDMINE_INSTANTIATE(T)                                                                           \
  template decltype(measure_triplets<T>) measure_triplets<T>;                                             \
  template decltype(loss_of_triplets<IndexedLoss, T>) loss_of_triplets<IndexedLoss, T>;                   \
  template decltype(loss_of_triplets<GlobalRule, T>) loss_of_triplets<GlobalRule, T>;                     \
  template decltype(loss_of_triplets_gradient<IndexedLoss, T>) loss_of_triplets_gradient<IndexedLoss, T>; \
  template decltype(loss_of_triplets_gradient<GlobalRule, T>) loss_of_triplets_gradient<GlobalRule, T>;
HARDMINE_INSTANTIATE(float)
HARDMINE_INSTANTIATE(double)
#undef HARDMINE_INSTANTIATE

}  // namespace hardmine::cpu
