// The sigmoid loss and its gradients compared with plain loops in double.

#include "cpu/engine/sigmoid_loss.h"

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

constexpr Logit<double> kLogits[] = {{10, -10}, {2, 1}, {-3, 0.5}};

template <class T>
struct SigmoidRun {
  std::vector<T> value, by_scale, by_bias, grad_queries, grad_keys;
  bool finite;

  SigmoidRun(const SigmoidRule& rule, const Logit<double>& logit, const Batch<T>& queries, const Batch<T>& keys,
             const std::vector<T>& gradient, const cpu::ThreadPool& pool) {
    for (std::vector<T>* numbers : {&value, &by_scale, &by_bias}) numbers->assign(queries.count, T(kNaN));
    finite = cpu::sigmoid_forward<T>(rule, logit, queries.view(), keys.view(), queries.depth, pool,
                                     {value.data(), by_scale.data(), by_bias.data()});
    grad_queries.assign(queries.x.size(), T(kNaN));
    grad_keys.assign(keys.x.size(), T(kNaN));
    T nothing[1];  // a wanted gradient without elements is not null either
    const auto data = [&](std::vector<T>& grad) { return grad.empty() ? nothing : grad.data(); };
    CHECK_EQ(cpu::sigmoid_backward<T>(rule, logit, queries.view(), keys.view(), queries.depth, gradient.data(), pool,
                                      data(grad_queries), data(grad_keys)),
             finite);
  }
  bool same(const SigmoidRun& other) const {
    return same_bits(value, other.value) && same_bits(by_scale, other.by_scale) && same_bits(by_bias, other.by_bias) &&
           same_bits(grad_queries, other.grad_queries) && same_bits(grad_keys, other.grad_keys);
  }
};

template <class T>
void check_case(Similarity similarity, const Logit<double>& logit, Labels labels, int64_t rows, int64_t columns,
                int64_t depth) {
  Random random(1000 * rows + columns + depth);
  const Batch<T> queries(Values::kReals, labels, rows, depth, random),
      keys(Values::kReals, labels, columns, depth, random);
  std::vector<T> gradient(rows);
  for (T& g : gradient) g = T(2 * random.unit() - 1);
  SigmoidRule rule;
  rule.similarity = similarity;
  context = name_of(similarity) + ", " + std::to_string(rows) + " x " + std::to_string(columns) + ", depth " +
            std::to_string(depth) + ", scale " + std::to_string(logit.scale) + ", labels " + name_of(labels);
  const SigmoidRun<T> run(rule, logit, queries, keys, gradient, SerialPool());
  CHECK(run.finite);
  const PairMeasure measure = measure_of(similarity);
  const MeasuredSide<T> x(measure, queries), y(measure, keys);
  const std::vector<double> s = measure_matrix(measure, x, y);
  double largest = 1;
  for (const double number : s) largest = std::fmax(largest, std::fabs(number));
  for (const MeasuredSide<T>* side : {&x, &y})
    for (const double number : side->x) largest = std::fmax(largest, double(depth) * number * number);
  const double epsilon = std::numeric_limits<T>::epsilon(),
               error = 16 * epsilon * (largest * std::fabs(logit.scale) + std::fabs(logit.bias) + 1);
  std::vector<double> weight(s.size()), weight_error(s.size());
  for (int64_t i = 0; i < rows; ++i) {
    double value = 0, by_scale = 0, by_bias = 0;
    for (int64_t j = 0; j < columns; ++j) {
      const double sign = queries.label[i] == keys.label[j] ? -1 : 1, similar = s[i * columns + j],
                   z = sign * (logit.scale * similar + logit.bias), slope = sign / (1 + std::exp(-z));
      value += std::fmax(z, 0) + std::log1p(std::exp(-std::fabs(z)));
      by_scale += slope * similar;
      by_bias += slope;
      weight[i * columns + j] = double(gradient[i]) * logit.scale * slope;
      weight_error[i * columns + j] = std::fabs(double(gradient[i]) * logit.scale) * error;
    }
    const double slack = double(columns) * error;
    CHECK_NEAR(run.value[i], value, slack + 4 * epsilon * value);
    CHECK_NEAR(run.by_scale[i], by_scale, slack * largest);
    CHECK_NEAR(run.by_bias[i], by_bias, slack);
  }
  DenseGradient<T>(measure, x, &y, weight, weight_error).check(run.grad_queries, run.grad_keys);
}

}  // namespace

TEST(sigmoid_loss_with_forced_target_runs_on_it) { check_forced_target(); }

TYPED_TEST(sigmoid_loss_any_counts_match_double_loop, T) {
  for (const Similarity similarity : kSimilarities)
    for (const int64_t rows : {0, 1, 2, 33, 95, 97, 193})
      for (const int64_t columns : {0, 1, 32, 96, 193})
        for (const Logit<double>& logit : kLogits)
          check_case<T>(similarity, logit, rows % 2 ? Labels::kRandom : Labels::kAllDistinct, rows, columns,
                        rows % 3 ? 7 : 17);
}

TYPED_TEST(sigmoid_loss_any_thread_count_gives_same_bits, T) {
  Random random(5);
  const Batch<T> queries(Values::kReals, Labels::kRandom, 289, 56, random),
      keys(Values::kReals, Labels::kRandom, 301, 56, random);
  const std::vector<T> gradient(289, T(0.5));
  const SigmoidRun<T> serial({}, kLogits[0], queries, keys, gradient, SerialPool());
  for (const int64_t threads : {2, 7})
    CHECK(SigmoidRun<T>({}, kLogits[0], queries, keys, gradient, ThreadedPool(threads)).same(serial));
  CHECK(SigmoidRun<T>({}, kLogits[0], queries, keys, gradient, ReversePool()).same(serial));
}

TYPED_TEST(sigmoid_loss_nonfinite_row_is_reported, T) {
  Random random(6);
  Batch<T> queries(Values::kReals, Labels::kRandom, 20, 5, random);
  const Batch<T> keys(Values::kReals, Labels::kRandom, 20, 5, random);
  queries.x[17] = T(kNaN);
  CHECK(!SigmoidRun<T>({}, kLogits[0], queries, keys, std::vector<T>(20, T(1)), SerialPool()).finite);
}

// Loss and gradients in one pass: those of both calls, where the labels are the row numbers.
TYPED_TEST(sigmoid_loss_with_gradients_matches_two_calls, T) {
  for (const Similarity similarity : kSimilarities) {
    for (const int64_t rows : {1, 33, 97, 193}) {
      Random random(rows);
      Batch<T> queries(Values::kReals, Labels::kAllDistinct, rows, 17, random),
          keys(Values::kReals, Labels::kAllDistinct, rows, 17, random);
      for (int64_t i = 0; i < rows; ++i) queries.label[i] = keys.label[i] = i;
      SigmoidRule rule;
      rule.similarity = similarity;
      context = name_of(similarity) + ", " + std::to_string(rows) + " rows";
      const std::vector<T> gradient(rows, T(1));
      const SigmoidRun<T> both(rule, kLogits[0], queries, keys, gradient, SerialPool());
      const auto run = [&](const cpu::ThreadPool& pool, bool has_keys) {
        std::vector<T> loss(1), of_queries(queries.x.size(), T(kNaN)), of_keys(has_keys ? keys.x.size() : 0, T(kNaN));
        double of_logit[2];
        CHECK(cpu::sigmoid_with_gradients<T>(
            rule, kLogits[0], false, {queries.x.data(), rows}, {keys.x.data(), rows}, 17, pool,
            {loss.data(), of_queries.data(), has_keys ? of_keys.data() : nullptr, of_logit}));
        loss.push_back(static_cast<T>(of_logit[0]));
        loss.push_back(static_cast<T>(of_logit[1]));
        CHECK(same_bits(of_queries, both.grad_queries));
        if (has_keys) CHECK(same_bits(of_keys, both.grad_keys));
        return loss;
      };
      const std::vector<T> found = run(SerialPool(), true);
      CHECK(same_bits(run(ThreadedPool(3), true), found));
      CHECK(same_bits(run(SerialPool(), false), found));
      const std::vector<T>* wanted[] = {&both.value, &both.by_scale, &both.by_bias};
      for (int64_t k = 0; k < 3; ++k) {
        double sum = 0, size = 0;
        for (const T number : *wanted[k]) {
          sum += number;
          size += std::fabs(number);
        }
        CHECK_NEAR(found[k], sum, 2 * std::numeric_limits<T>::epsilon() * size);
      }
    }
  }
}
