// InfoNCE and its gradients compared with plain loops in double.

#include "cpu/engine/info_nce_loss.h"

#include <vector>

#include "support/check.h"
#include "support/dense_gradient.h"
#include "support/names.h"
#include "support/selection_oracle.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

template <class T>
Matrix<T> view(const Batch<T>& batch) {
  return {batch.x.data(), batch.count};
}

template <class T>
struct InfoNceRun {
  T loss = T(kNaN);
  double grad_temperature = kNaN;
  std::vector<T> grad_query, grad_key;
  bool finite;

  InfoNceRun(const InfoNceRule& rule, double temperature, const Batch<T>& queries, const Batch<T>& keys,
             const cpu::ThreadPool& pool, bool with_gradients = true, int64_t max_kept_bytes = cpu::kMaxKeptBytes) {
    grad_query.assign(queries.x.size(), T(kNaN));
    grad_key.assign(keys.x.size(), T(kNaN));
    T nothing[1];  // a wanted gradient without elements is not null either
    const auto data = [&](std::vector<T>& grad) {
      return !with_gradients ? nullptr : grad.empty() ? nothing : grad.data();
    };
    finite = cpu::info_nce_loss<T>(rule, temperature, view(queries), view(keys), queries.depth, pool,
                                   {.loss = &loss,
                                    .grad_query = data(grad_query),
                                    .grad_key = data(grad_key),
                                    .grad_temperature = with_gradients ? &grad_temperature : nullptr},
                                   max_kept_bytes);
  }
  bool same(const InfoNceRun& other) const {
    return same_bits(loss, other.loss) && same_bits(grad_temperature, other.grad_temperature) &&
           same_bits(grad_query, other.grad_query) && same_bits(grad_key, other.grad_key);
  }
};

template <class T>
void check_case(const InfoNceRule& rule, double temperature, int64_t rows, int64_t columns, int64_t depth) {
  Random random(1000 * rows + columns + depth);
  const Batch<T> queries(Values::kReals, Labels::kAllDistinct, rows, depth, random),
      keys(Values::kReals, Labels::kAllDistinct, columns, depth, random);
  context = name_of(rule.similarity) + ", " + std::to_string(rows) + " x " + std::to_string(columns) + ", depth " +
            std::to_string(depth) + ", temperature " + std::to_string(temperature) +
            text_of({{"symmetric", rule.symmetric}, {"mean", rule.is_mean}});
  const InfoNceRun<T> run(rule, temperature, queries, keys, SerialPool());
  CHECK(run.finite);
  CHECK(same_bits(InfoNceRun<T>(rule, temperature, queries, keys, SerialPool(), false).loss, run.loss));

  const PairMeasure measure = measure_of(rule.similarity);
  const MeasuredSide<T> x(measure, queries), y(measure, keys);
  const std::vector<double> s = measure_matrix(measure, x, y);
  double largest = 1;
  for (const MeasuredSide<T>* side : {&x, &y})
    for (const double number : side->x) largest = std::fmax(largest, 2 * double(depth) * number * number);
  const double epsilon = std::numeric_limits<T>::epsilon(), x_error = 16 * epsilon * (largest / temperature + 90);
  const double w = (rule.symmetric ? 0.5 : 1.0) / (rule.is_mean && rows ? double(rows) : 1.0);
  double loss = 0, grad_temperature = 0;
  std::vector<double> weight(s.size(), 0.0), error(s.size(), 0.0);
  const auto add_row = [&](int64_t i, int64_t pairs, const auto& place) {
    double best = -kInfinity, sum = 0, offset = 0;
    for (int64_t k = 0; k < pairs; ++k)
      if (k != i) best = std::fmax(best, s[place(k)]);
    for (int64_t k = 0; k < pairs; ++k) {
      if (k == i) continue;
      sum += std::exp((s[place(k)] - best) / temperature);
      offset += std::exp((s[place(k)] - best) / temperature) * (s[place(k)] - best);
    }
    if (sum == 0) return;
    const double own = s[place(i)], z = (best - own) / temperature + std::log(sum), slope = 1 / (1 + std::exp(-z));
    loss += w * (std::fmax(z, 0) + std::log1p(std::exp(-std::fabs(z))));
    grad_temperature -= w * slope * (offset / sum + best - own) / temperature / temperature;
    for (int64_t k = 0; k < pairs; ++k) {
      const double p = k == i ? -1 : std::exp((s[place(k)] - best) / temperature) / sum;
      weight[place(k)] += w * slope * p / temperature;
      error[place(k)] += w * (slope * std::fabs(p) * 4 * x_error + 1e-18) / temperature;
    }
  };
  for (int64_t i = 0; i < rows; ++i) add_row(i, columns, [&](int64_t k) { return i * columns + k; });
  for (int64_t j = 0; rule.symmetric && j < columns; ++j) add_row(j, rows, [&](int64_t k) { return k * columns + j; });
  const double slack = x_error * w * double(rows + 1) * (rule.symmetric ? 2 : 1);
  CHECK_NEAR(run.loss, loss, slack + 4 * epsilon * loss);
  CHECK_NEAR(run.grad_temperature, grad_temperature, 4 * slack * largest / temperature / temperature);
  DenseGradient<T>(measure, x, &y, weight, error).check(run.grad_query, run.grad_key);
}

}  // namespace

TEST(info_nce_loss_with_forced_target_runs_on_it) { check_forced_target(); }

TYPED_TEST(info_nce_loss_any_counts_match_double_loop, T) {
  for (const Similarity similarity : kSimilarities)
    for (const bool symmetric : {false, true})
      for (const int64_t rows : {0, 1, 2, 33, 95, 97, 193})
        for (const int64_t more : {0, 1, 31, 193}) {
          if (symmetric && more) continue;
          const bool is_mean = (rows + more) % 2 == 0;
          check_case<T>({similarity, symmetric, is_mean}, more % 2 ? 0.05 : 1.0, rows, rows + more, rows % 3 ? 7 : 17);
        }
}

// Enough work for two threads or more. Similarities are kept, or computed twice.
TYPED_TEST(info_nce_loss_any_thread_count_gives_same_bits, T) {
  Random random(5);
  for (const Similarity similarity : kSimilarities)
    for (const bool symmetric : {false, true}) {
      const int64_t keys_count = symmetric ? 389 : 601;
      const Batch<T> queries(Values::kReals, Labels::kAllDistinct, 389, 56, random),
          keys(Values::kReals, Labels::kAllDistinct, keys_count, 56, random);
      const InfoNceRule rule{similarity, symmetric, true};
      const InfoNceRun<T> serial(rule, 0.05, queries, keys, SerialPool());
      context = name_of(similarity) + text_of({{"symmetric", symmetric}});
      for (const int64_t threads : {2, 7})
        for (const int64_t max_kept_bytes : {int64_t{0}, cpu::kMaxKeptBytes})
          CHECK(InfoNceRun<T>(rule, 0.05, queries, keys, ThreadedPool(threads), true, max_kept_bytes).same(serial));
      CHECK(InfoNceRun<T>(rule, 0.05, queries, keys, ReversePool()).same(serial));
    }
}

TYPED_TEST(info_nce_loss_nonfinite_row_is_reported, T) {
  Random random(6);
  Batch<T> queries(Values::kReals, Labels::kAllDistinct, 20, 5, random);
  const Batch<T> keys(Values::kReals, Labels::kAllDistinct, 20, 5, random);
  queries.x[17] = T(kNaN);
  CHECK(!InfoNceRun<T>({}, 0.1, queries, keys, SerialPool()).finite);
}
