// Every pair of an anchor and one of its positives with its own negative, compared with a double loop.

#include "cpu/engine/select_all_positives.h"

#include <algorithm>

#include "cpu/simd/range_block_table.h"
#include "support/check.h"
#include "support/names.h"
#include "support/selection_oracle.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

struct Triplet {
  int64_t anchor, positive, negative;
  double positive_similarity, negative_similarity;
};

bool same_numbers(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

bool equal(const std::vector<Triplet>& a, const std::vector<Triplet>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const Triplet& x, const Triplet& y) {
    return x.anchor == y.anchor && x.positive == y.positive && x.negative == y.negative &&
           same_numbers(x.positive_similarity, y.positive_similarity) &&
           same_numbers(x.negative_similarity, y.negative_similarity);
  });
}

// `s`: [anchors, refs], with `symmetric` of the anchors among themselves.
template <class T>
std::vector<Triplet> oracle(const SelectionRule& rule, const std::vector<double>& s, const Batch<T>& anchors,
                            const Batch<T>& refs, bool symmetric, const std::vector<int64_t>& id,
                            const std::vector<int64_t>& ref_id) {
  std::vector<Triplet> triplets;
  for (int64_t a = 0; a < anchors.count; ++a) {
    const double* row = s.data() + a * refs.count;
    const auto excluded = [&](int64_t j) { return !id.empty() && id[a] >= 0 && id[a] == ref_id[j]; };
    const auto is_negative = [&](int64_t j) { return refs.label[j] != anchors.label[a] && !excluded(j); };
    for (int64_t p = 0; p < refs.count; ++p) {
      if (refs.label[p] != anchors.label[a] || excluded(p) || (symmetric && p == a)) continue;
      if (!std::isfinite(row[p]) || row[p] > rule.duplicate_threshold) continue;
      Chosen n;
      if (rule.negative == Negative::kSemihard) {
        n = choose(row, refs.count, false, [&](int64_t j) {
          const bool below = rule.semihard_keeps_ties ? row[j] <= row[p] : row[j] < row[p];
          return is_negative(j) && below &&
                 (rule.semihard_margin == kInfinity || row[j] > row[p] - rule.semihard_margin);
        });
        if (n.index < 0 && rule.semihard_fallback != Fallback::kNone)
          n = choose(row, refs.count, rule.semihard_fallback == Fallback::kEasiest, is_negative);
      } else {
        n = choose(row, refs.count, rule.negative == Negative::kEasiest, is_negative);
      }
      triplets.push_back({a, p, n.index, T(row[p]), T(n.similarity)});
    }
  }
  return triplets;
}

template <class T>
std::vector<Triplet> selected(const SelectionRule& rule, const Batch<T>& anchors, const Batch<T>* refs,
                              const std::vector<int64_t>& id, const std::vector<int64_t>& ref_id,
                              const cpu::ThreadPool& pool) {
  const auto view = [](const Batch<T>& batch, const std::vector<int64_t>& ids) {
    return LabeledMatrix<T>{batch.x.data(), batch.label.data(), batch.count, ids.empty() ? nullptr : ids.data()};
  };
  const LabeledMatrix<T> others = refs ? view(*refs, ref_id) : LabeledMatrix<T>{};
  cpu::PositivePairs<T> pairs;
  cpu::select_all_positives<T>(rule, view(anchors, id), refs ? &others : nullptr, anchors.depth, pool, pairs);
  std::vector<Triplet> triplets;
  for (size_t i = 0; i < pairs.anchor.size(); ++i)
    triplets.push_back({pairs.anchor[i], pairs.positive[i], pairs.negative[i], pairs.positive_similarity[i],
                        pairs.negative_similarity[i]});
  return triplets;
}

// The rules of all_rules that choose a negative of every pair.
std::vector<SelectionRule> pair_rules(Similarity kind) {
  std::vector<SelectionRule> rules = all_rules(kind);
  std::erase_if(rules, [](const SelectionRule& rule) {
    return rule.positive != Positive::kEasiest || rule.negative == Negative::kRandom;
  });
  return rules;
}

std::vector<int64_t> some_ids(int64_t count, Random& random) {
  std::vector<int64_t> ids(count);
  for (int64_t& id : ids) id = random.below(20) - 4;
  return ids;
}

// Half of the rows are of one class, which has more ranges than the kernel compares at once.
template <class T>
void make_unbalanced(Batch<T>& batch) {
  for (int64_t i = 0; i < batch.count; ++i) batch.label[i] = i % 2 ? 7 : i % 11;
}

template <class T>
void check_all_rules(Similarity kind, const Batch<T>& anchors, const Batch<T>& refs, Random& random) {
  for (const bool has_ids : {false, true}) {
    const std::vector<int64_t> id = has_ids ? some_ids(anchors.count, random) : std::vector<int64_t>{};
    const std::vector<int64_t> ref_id = has_ids ? some_ids(refs.count, random) : std::vector<int64_t>{};
    const std::vector<double> own = similarity_matrix(kind, anchors, anchors);
    const std::vector<double> others = similarity_matrix(kind, anchors, refs);
    for (const SelectionRule& rule : pair_rules(kind)) {
      CHECK(equal(selected<T>(rule, anchors, nullptr, id, {}, SerialPool()),
                  oracle(rule, own, anchors, anchors, true, id, id)));
      CHECK(equal(selected<T>(rule, anchors, &refs, id, ref_id, SerialPool()),
                  oracle(rule, others, anchors, refs, false, id, ref_id)));
    }
  }
}

}  // namespace

TEST(select_all_positives_runs_on_forced_target) { check_forced_target(); }

TYPED_TEST(select_all_positives_equals_double_loop, T) {
  Random random(1);
  for (const Similarity kind : kSimilarities) {
    for (const Labels labels :
         {Labels::kRandom, Labels::kOneClass, Labels::kAllDistinct, Labels::kPairsSorted, Labels::kExtreme}) {
      for (const int64_t count : {0, 1, 2, 33, 97}) {
        context = name_of(kind) + ", labels " + name_of(labels) + ", " + std::to_string(count) + " rows";
        const Batch<T> anchors(exact_values(kind), labels, count, 17, random);
        const Batch<T> refs(exact_values(kind), labels, count / 2 + 3, 17, random);
        check_all_rules(kind, anchors, refs, random);
      }
    }
  }
}

TYPED_TEST(select_all_positives_of_a_large_class_equals_double_loop, T) {
  Random random(2);
  for (const Similarity kind : kSimilarities) {
    context = name_of(kind);
    Batch<T> anchors(exact_values(kind), Labels::kRandom, 2 * cpu::kMaxRangeLevels + 24, 16, random);
    Batch<T> refs(exact_values(kind), Labels::kRandom, 2 * cpu::kMaxRangeLevels + 11, 16, random);
    make_unbalanced(anchors);
    make_unbalanced(refs);
    check_all_rules(kind, anchors, refs, random);
  }
}

TYPED_TEST(select_all_positives_any_threads_give_same_triplets, T) {
  Random random(3);
  Batch<T> anchors(Values::kReals, Labels::kRandom, 700, 40, random);
  const Batch<T> refs(Values::kReals, Labels::kRandom, 500, 40, random);
  make_unbalanced(anchors);
  SelectionRule rule{.similarity = Similarity::kCosine, .negative = Negative::kSemihard};
  rule.semihard_fallback = Fallback::kHardest;
  for (const Batch<T>* others : {static_cast<const Batch<T>*>(nullptr), &refs}) {
    const std::vector<Triplet> want = selected<T>(rule, anchors, others, {}, {}, SerialPool());
    CHECK(want.size() > 1000);
    for (const auto& pool : parallel_pools()) CHECK(equal(selected<T>(rule, anchors, others, {}, {}, *pool), want));
  }
}
