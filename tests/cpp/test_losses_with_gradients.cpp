// Losses whose gradients come with them: the same bits whether similarities are kept between passes or computed twice,
// for any number of threads; losses compared with plain loops in double. tests/ops/test_losses_with_gradients.py
// compares the gradients with those of other ops.

#include <cmath>
#include <optional>
#include <vector>

#include "cpu/engine/supcon_loss.h"
#include "cpu/engine/tuplet_loss.h"
#include "cpu/engine/two_sums_loss.h"
#include "support/check.h"
#include "support/names.h"
#include "support/samples.h"
#include "support/selection_oracle.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kTemperature = 0.2;

template <class T>
struct Run {
  std::vector<T> loss, grad_x, grad_refs;

  Run(const Batch<T>& x, const Batch<T>* refs, int64_t losses)
      : loss(losses, T(kNaN)), grad_x(x.x.size(), T(kNaN)), grad_refs(refs ? refs->x.size() : 0, T(kNaN)) {}
  T* refs_data() { return grad_refs.empty() ? nullptr : grad_refs.data(); }
  bool same(const Run& other) const {
    return same_bits(loss, other.loss) && same_bits(grad_x, other.grad_x) && same_bits(grad_refs, other.grad_refs);
  }
};

template <class T>
Run<T> run_supcon(Similarity similarity, const Batch<T>& x, const Batch<T>* refs, const cpu::ThreadPool& pool,
                  int64_t max_kept_bytes = cpu::kMaxKeptBytes) {
  Run<T> run(x, refs, 1);
  const LabeledMatrix<T> columns = refs ? refs->view() : LabeledMatrix<T>{};
  CHECK(cpu::supcon_loss<T>({similarity, kTemperature, true}, x.view(), refs ? &columns : nullptr, x.depth, pool,
                            {run.loss.data(), run.grad_x.data(), run.refs_data()}, max_kept_bytes));
  return run;
}

template <class T>
Run<T> run_tuplet(TupletPositive positive, Similarity similarity, const Batch<T>& x, const Batch<T>* refs,
                  const cpu::ThreadPool& pool, int64_t max_kept_bytes = cpu::kMaxKeptBytes, bool two_calls = false) {
  TupletRule rule;
  rule.similarity = similarity;
  rule.positive = positive;
  rule.temperature = kTemperature;
  Run<T> run(x, refs, x.count);
  std::vector<T> logsumexp(x.count), shift(x.count), sum(x.count), slope(x.count), s_ap(x.count);
  std::vector<int64_t> index(x.count), count(x.count);
  const TupletOut<T> out{.loss = run.loss.data(),
                         .logsumexp = logsumexp.data(),
                         .shift = shift.data(),
                         .sum = sum.data(),
                         .slope = slope.data(),
                         .positive_similarity = s_ap.data(),
                         .positive_index = index.data(),
                         .positive_count = count.data()};
  const LabeledMatrix<T> ref_view = refs ? refs->view() : LabeledMatrix<T>{};
  const LabeledMatrix<T>* columns = refs ? &ref_view : nullptr;
  if (!two_calls) {
    CHECK(cpu::tuplet_with_gradients<T>(rule, x.view(), columns, x.depth, pool, out, run.grad_x.data(), run.refs_data(),
                                        max_kept_bytes));
    return run;
  }
  CHECK(cpu::tuplet_forward<T>(rule, x.view(), columns, x.depth, pool, out));
  const T one = T(1);
  const std::vector<T> grad_loss = tuplet_gradients(rule.reduction, &one, count.data(), x.count);
  const TupletSaved<T> saved{grad_loss.data(), shift.data(), sum.data(), slope.data(), index.data(), count.data()};
  CHECK(cpu::tuplet_backward<T>(rule, x.view(), columns, x.depth, saved, {}, pool, run.grad_x.data(), run.refs_data()));
  return run;
}

TwoSumsRule multi_similarity_rule(Similarity similarity) {
  return {.similarity = similarity, .positive_scale = 3, .negative_scale = 9, .base = 0.2};
}

TwoSumsRule circle_rule() { return {.is_circle = true, .positive_scale = 9, .negative_scale = 9, .margin = 0.3}; }

template <class T>
Run<T> run_two_sums(const TwoSumsRule& rule, const Batch<T>& x, const Batch<T>* refs, const cpu::ThreadPool& pool,
                    int64_t max_kept_bytes = cpu::kMaxKeptBytes) {
  Run<T> run(x, refs, 1);
  const LabeledMatrix<T> columns = refs ? refs->view() : LabeledMatrix<T>{};
  CHECK(cpu::two_sums_loss<T>(rule, x.view(), refs ? &columns : nullptr, x.depth, pool,
                              {run.loss.data(), run.grad_x.data(), run.refs_data()}, max_kept_bytes));
  return run;
}

// The loss of plain loops.
template <class T>
double plain_two_sums(const TwoSumsRule& rule, const Batch<T>& x, const Batch<T>* refs) {
  const Batch<T>& y = refs ? *refs : x;
  const std::vector<double> s = similarity_matrix(rule.similarity, x, y);
  const auto positive = [&](double z) { return std::max(1 + rule.margin - z, 0.0) * (1 - rule.margin - z); };
  const auto negative = [&](double z) { return std::max(z + rule.margin, 0.0) * (z - rule.margin); };
  double total = 0;
  int64_t anchors = 0;
  for (int64_t i = 0; i < x.count; ++i) {
    double p = 0, n = 0;
    for (int64_t j = 0; j < y.count; ++j) {
      if (!refs && i == j) continue;
      const double z = s[i * y.count + j];
      if (x.label[i] == y.label[j]) {
        p += std::exp(rule.positive_scale * (rule.is_circle ? positive(z) : rule.base - z));
      } else {
        n += std::exp(rule.negative_scale * (rule.is_circle ? negative(z) : z - rule.base));
      }
    }
    if (!rule.is_circle) {
      total += std::log1p(p) / rule.positive_scale + std::log1p(n) / rule.negative_scale;
    } else if (p == 0 || n == 0) {
      continue;
    } else {
      total += std::log1p(p * n);
    }
    ++anchors;
  }
  CHECK(anchors > 0);
  return total / static_cast<double>(anchors);
}

// Calls use(x, refs or null) for batches whose similarities are kept: they are not much larger than the rows.
template <class T, class Use>
void for_each_batch(const Use& use) {
  for (const int64_t rows : {97, 300}) {
    for (const int64_t columns : {-1, 193}) {
      Random random(rows + columns);
      const Batch<T> x(Values::kReals, Labels::kRandom, rows, 65, random);
      const Batch<T> refs(Values::kReals, Labels::kRandom, std::max<int64_t>(columns, 1), 65, random);
      context = std::to_string(rows) + " rows, " + std::to_string(columns) + " refs";
      use(x, columns < 0 ? nullptr : &refs);
    }
  }
}

}  // namespace

TEST(losses_with_gradients_with_forced_target_run_on_it) { check_forced_target(); }

TYPED_TEST(supcon_loss_kept_similarities_and_threads_give_same_bits, T) {
  for (const Similarity similarity : {Similarity::kCosine, Similarity::kDot, Similarity::kEuclidean}) {
    for_each_batch<T>([&](const Batch<T>& x, const Batch<T>* refs) {
      const Run<T> run = run_supcon(similarity, x, refs, SerialPool());
      CHECK(run.loss[0] > 0);
      CHECK(run.same(run_supcon(similarity, x, refs, SerialPool(), 0)));
      CHECK(run.same(run_supcon(similarity, x, refs, ThreadedPool(3))));
      CHECK(run.same(run_supcon(similarity, x, refs, ThreadedPool(3), 0)));
    });
  }
}

TYPED_TEST(tuplet_loss_with_gradients_gives_bits_of_two_calls, T) {
  for (const Similarity similarity : {Similarity::kCosine, Similarity::kDot, Similarity::kEuclidean}) {
    for (const TupletPositive positive : {TupletPositive::kEasiest, TupletPositive::kAll}) {
      for_each_batch<T>([&](const Batch<T>& x, const Batch<T>* refs) {
        const Run<T> run = run_tuplet(positive, similarity, x, refs, SerialPool());
        CHECK(run.same(run_tuplet(positive, similarity, x, refs, SerialPool(), 0, true)));
        CHECK(run.same(run_tuplet(positive, similarity, x, refs, SerialPool(), 0)));
        CHECK(run.same(run_tuplet(positive, similarity, x, refs, ThreadedPool(3))));
      });
    }
  }
}

TYPED_TEST(supcon_loss_matches_plain_loops, T) {
  for_each_batch<T>([&](const Batch<T>& x, const Batch<T>* refs) {
    const Batch<T>& y = refs ? *refs : x;
    const std::vector<double> s = similarity_matrix(Similarity::kCosine, x, y);
    double total = 0;
    int64_t anchors = 0;
    for (int64_t i = 0; i < x.count; ++i) {
      double sum = 0, positive = 0;
      int64_t positives = 0;
      for (int64_t j = 0; j < y.count; ++j) {
        if (!refs && i == j) continue;
        const double similarity = s[i * y.count + j];
        sum += std::exp(similarity / kTemperature);
        if (x.label[i] != y.label[j]) continue;
        positive += similarity;
        ++positives;
      }
      if (positives == 0) continue;
      total += std::log(sum) - positive / static_cast<double>(positives) / kTemperature;
      ++anchors;
    }
    CHECK(anchors > 0);
    const double expected = total / static_cast<double>(anchors);
    const double loss = run_supcon(Similarity::kCosine, x, refs, SerialPool()).loss[0];
    CHECK(std::abs(loss - expected) <= (sizeof(T) == 4 ? 1e-6 : 1e-14) * expected);
  });
}

TYPED_TEST(two_sums_loss_kept_similarities_and_threads_give_same_bits, T) {
  const TwoSumsRule rules[] = {multi_similarity_rule(Similarity::kCosine), multi_similarity_rule(Similarity::kDot),
                               circle_rule()};
  for (const TwoSumsRule& rule : rules) {
    for_each_batch<T>([&](const Batch<T>& x, const Batch<T>* refs) {
      const Run<T> run = run_two_sums(rule, x, refs, SerialPool());
      CHECK(run.loss[0] > 0);
      CHECK(run.same(run_two_sums(rule, x, refs, SerialPool(), 0)));
      CHECK(run.same(run_two_sums(rule, x, refs, ThreadedPool(3))));
      CHECK(run.same(run_two_sums(rule, x, refs, ThreadedPool(3), 0)));
    });
  }
}

TYPED_TEST(two_sums_loss_matches_plain_loops, T) {
  for (const TwoSumsRule& rule : {multi_similarity_rule(Similarity::kCosine), circle_rule()}) {
    for_each_batch<T>([&](const Batch<T>& x, const Batch<T>* refs) {
      const double expected = plain_two_sums(rule, x, refs);
      const double loss = run_two_sums(rule, x, refs, SerialPool()).loss[0];
      CHECK(std::abs(loss - expected) <= (sizeof(T) == 4 ? 3e-6 : 1e-14) * expected);
    });
  }
}

// Beyond 12,288 refs, and again beyond 18,432, the groups of a pass have more columns than a kept block.
TYPED_TEST(losses_with_gradients_of_many_refs_keep_the_bits_of_similarities_computed_twice, T) {
  for (const int64_t count : {12288, 12289, 18433}) {
    context = std::to_string(count) + " refs";
    Random random(count);
    const Batch<T> x(Values::kReals, Labels::kRandom, 20, 13, random);
    const Batch<T> refs(Values::kReals, Labels::kRandom, count, 13, random);
    const int64_t bytes = std::numeric_limits<int64_t>::max();
    for (const TwoSumsRule& rule : {multi_similarity_rule(Similarity::kCosine), circle_rule()}) {
      const Run<T> run = run_two_sums(rule, x, &refs, SerialPool(), 0);
      CHECK(run.same(run_two_sums(rule, x, &refs, SerialPool(), bytes)));
      CHECK(run.same(run_two_sums(rule, x, &refs, ThreadedPool(3), bytes)));
    }
    const Run<T> run = run_supcon(Similarity::kCosine, x, &refs, SerialPool(), 0);
    CHECK(run.same(run_supcon(Similarity::kCosine, x, &refs, ThreadedPool(3), bytes)));
  }
}
