// Cancels each part of the engine at its first, second, ... poll. Either it throws, or its result is complete.

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "cpu/engine/batch_all_triplet_loss.h"
#include "cpu/engine/given_triplets.h"
#include "cpu/engine/knn.h"
#include "cpu/engine/pair_gradient.h"
#include "cpu/engine/tuplet_loss.h"
#include "support/check.h"
#include "support/names.h"
#include "support/samples.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr int64_t kCount = 400, kDepth = 8;

struct Sample {
  std::vector<float> x;
  std::vector<int64_t> label;

  explicit Sample(int64_t classes) : label(kCount) {
    Random random(3);
    x = make_rows<float>(Values::kReals, kCount, kDepth, random);
    for (int64_t& l : label) l = random.below(classes);
  }
  LabeledMatrix<float> view() const { return {x.data(), label.data(), kCount}; }
};

using Numbers = std::vector<double>;

template <class T>
void append(Numbers& numbers, const std::vector<T>& more) {
  for (const T number : more) numbers.push_back(number == number ? static_cast<double>(number) : -77.0);
}

// `work` returns everything that it computes.
void check_cancelling(const std::string& name, const std::function<Numbers(const cpu::ThreadPool&)>& work) {
  const Numbers want = work(SerialPool());
  std::vector<std::unique_ptr<cpu::ThreadPool>> pools = parallel_pools();
  pools.push_back(std::make_unique<SerialPool>());
  for (const auto& pool : pools) {
    context = name + ", " + std::to_string(pool->count()) + " threads";
    int64_t cancelled = 0;
    for (int64_t questions = 0; questions < 1'000'000; questions += 1 + questions / 8) {
      const CancelledPool workers(*pool, questions);
      try {
        CHECK(work(workers) == want);
        CHECK(workers.asked() <= questions);
        break;
      } catch (const Cancelled&) {
        CHECK(workers.asked() > questions);
        ++cancelled;
      }
    }
    CHECK(cancelled > 2);
  }
}

Numbers selected(const SelectionRule& rule, const Sample& s, const Sample* refs, const cpu::ThreadPool& workers) {
  std::vector<int64_t> positive(kCount), negative(kCount);
  std::vector<float> s_ap(kCount), s_an(kCount);
  std::vector<double> random(kCount, 0.3);
  const LabeledMatrix<float> others = (refs ? *refs : s).view();
  cpu::select_triplets<float>(rule, s.view(), refs ? &others : nullptr, kDepth,
                              {rule.positive == Positive::kRandom ? random.data() : nullptr,
                               rule.negative == Negative::kRandom ? random.data() : nullptr},
                              workers, {positive.data(), negative.data(), s_ap.data(), s_an.data()});
  Numbers out;
  append(out, positive);
  append(out, negative);
  append(out, s_ap);
  append(out, s_an);
  return out;
}

}  // namespace

TEST(select_triplets_cancelled_anywhere_throws_or_is_complete) {
  const Sample sample(40), refs(40);
  for (const Negative negative : {Negative::kHardest, Negative::kSemihard, Negative::kRandom}) {
    for (const Sample* others : {static_cast<const Sample*>(nullptr), &refs}) {
      SelectionRule rule;
      rule.negative = negative;
      rule.semihard_fallback = Fallback::kHardest;
      if (negative == Negative::kRandom) {
        rule.positive = Positive::kRandom;
        rule.duplicate_threshold = 0.9;
      }
      check_cancelling("selection " + name_of(negative),
                       [&](const cpu::ThreadPool& workers) { return selected(rule, sample, others, workers); });
    }
  }
}

TEST(tuplet_loss_cancelled_anywhere_throws_or_is_complete) {
  const Sample sample(40);
  for (const TupletPositive positive : {TupletPositive::kEasiest, TupletPositive::kAll}) {
    TupletRule rule;
    rule.positive = positive;
    std::vector<float> logsumexp(kCount), shift(kCount), sum(kCount), slope(kCount), value(kCount), s_ap(kCount);
    std::vector<int64_t> index(kCount), count(kCount);
    check_cancelling("tuplet forward", [&](const cpu::ThreadPool& workers) {
      cpu::tuplet_forward<float>(rule, sample.view(), nullptr, kDepth, workers,
                                 {value.data(), logsumexp.data(), shift.data(), sum.data(), slope.data(), s_ap.data(),
                                  index.data(), count.data()});
      Numbers out;
      for (const auto* numbers : {&value, &logsumexp, &sum, &slope}) append(out, *numbers);
      append(out, index);
      return out;
    });
    const std::vector<float> gradient(kCount, 1.0F);
    check_cancelling("tuplet backward", [&](const cpu::ThreadPool& workers) {
      std::vector<float> grad(kCount * kDepth);
      cpu::tuplet_backward<float>(rule, sample.view(), nullptr, kDepth,
                                  {gradient.data(), shift.data(), sum.data(), slope.data(), index.data(), count.data()},
                                  {}, workers, grad.data(), nullptr);
      Numbers out;
      append(out, grad);
      return out;
    });
  }
}

TEST(batch_all_cancelled_anywhere_throws_or_is_complete) {
  for (const int64_t classes : {2, 40}) {  // many and few positives per anchor
    const Sample sample(classes);
    const LabeledMatrix<float> rows = sample.view();
    for (const bool symmetric : {true, false}) {
      check_cancelling("batch all of " + std::to_string(classes), [&](const cpu::ThreadPool& workers) {
        std::vector<float> grad(kCount * kDepth), grad_refs(kCount * kDepth);
        const cpu::BatchAllResult<float> result =
            cpu::batch_all<float>({}, rows, symmetric ? nullptr : &rows, kDepth, {}, workers, grad.data(),
                                  symmetric ? nullptr : grad_refs.data());
        Numbers out = {static_cast<double>(result.loss), static_cast<double>(result.active)};
        append(out, grad);
        append(out, grad_refs);
        return out;
      });
    }
  }
}

TEST(knn_cancelled_anywhere_throws_or_is_complete) {
  const Sample sample(1);
  const Matrix<float> points{sample.x.data(), kCount};
  for (const bool symmetric : {true, false}) {
    check_cancelling("nearest", [&](const cpu::ThreadPool& workers) {
      std::vector<float> similarity(kCount * 5);
      std::vector<int64_t> index(kCount * 5);
      cpu::knn<float>(Similarity::kCosine, points, symmetric ? nullptr : &points, kDepth, 5, symmetric, workers,
                      similarity.data(), index.data());
      Numbers out;
      append(out, similarity);
      append(out, index);
      return out;
    });
  }
}

TEST(given_triplets_cancelled_anywhere_throws_or_is_complete) {
  const Sample sample(1);
  Random random(4);
  std::vector<int64_t> second(20 * kCount), triplets;
  for (int64_t& s : second) s = random.below(kCount);
  const std::vector<float> gradient(second.size(), 0.5F);
  check_cancelling("pair gradient", [&](const cpu::ThreadPool& workers) {
    std::vector<float> grad(kCount * kDepth);
    cpu::pair_gradient<float>(measure_of(Similarity::kCosine), {sample.x.data(), kCount, nullptr, 0, kDepth},
                              {nullptr, second.data(), gradient.data(), kCount, 20}, workers, grad.data(), nullptr);
    Numbers out;
    append(out, grad);
    return out;
  });
  for (int64_t t = 0; t < 1000; ++t) triplets.insert(triplets.end(), {t % kCount, (t + 1) % kCount, (t + 9) % kCount});
  check_cancelling("triplets", [&](const cpu::ThreadPool& workers) {
    std::vector<float> positive(1000), negative(1000);
    cpu::measure_triplets<float>(measure_of(Similarity::kEuclidean), sample.x.data(), kCount, kDepth,
                                 {triplets.data(), 1000}, workers, positive.data(), negative.data());
    Numbers out;
    append(out, positive);
    append(out, negative);
    return out;
  });
}
