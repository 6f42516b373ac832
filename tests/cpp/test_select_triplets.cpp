// Selections compared with a double loop over all pairs, for many shapes, rules, labels and thread counts.

#include "cpu/engine/select_triplets.h"

#include "support/check.h"
#include "support/check_selection.h"
#include "support/names.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

template <class T>
struct Selection {
  std::vector<int64_t> positive_index, negative_index;
  std::vector<T> positive_similarity, negative_similarity;
  std::vector<double> u_positive, u_negative;  // the random numbers of random selections
  bool finite;

  Selection(const SelectionRule& rule, const Batch<T>& anchors, const Batch<T>* refs, const cpu::ThreadPool& pool)
      : positive_index(anchors.count, -7),
        negative_index(anchors.count, -7),
        positive_similarity(anchors.count),
        negative_similarity(anchors.count),
        u_positive(anchors.count),
        u_negative(anchors.count) {
    Random random(anchors.count);
    for (int64_t i = 0; i < anchors.count; ++i) {
      u_positive[i] = random.unit();
      u_negative[i] = random.unit();
    }
    const LabeledMatrix<T> ref_view = refs ? refs->view() : LabeledMatrix<T>{};
    finite = cpu::select_triplets<T>(
        rule, anchors.view(), refs ? &ref_view : nullptr, anchors.depth, {u_positive.data(), u_negative.data()}, pool,
        {positive_index.data(), negative_index.data(), positive_similarity.data(), negative_similarity.data()});
  }
  bool same(const Selection& other) const {
    return positive_index == other.positive_index && negative_index == other.negative_index && finite == other.finite &&
           same_bits(positive_similarity, other.positive_similarity) &&
           same_bits(negative_similarity, other.negative_similarity);
  }
};

SelectionCoverage coverage;  // of the current test

std::string describe(const SelectionRule& rule, int64_t rows, int64_t columns, int64_t depth, Labels labels) {
  return "rows " + std::to_string(rows) + ", columns " + std::to_string(columns) + ", depth " + std::to_string(depth) +
         ", labels " + name_of(labels) + ", " + test::describe(rule);
}

// `s`: the similarity matrix that the oracle reads.
template <class T>
void check_selection(const SelectionRule& rule, const Batch<T>& anchors, const Batch<T>* refs,
                     const std::vector<double>& s) {
  check_chosen(rule, anchors, refs, s, Selection<T>(rule, anchors, refs, SerialPool()), coverage);
}

// Selections without refs for one shape, by the next rules of a deck.
template <class T>
void check_symmetric(Deck<SelectionRule>& rules, Similarity similarity, Labels labels, int64_t count, int64_t depth,
                     size_t rule_count) {
  Random random(count * 1000 + depth);
  const Batch<T> anchors(exact_values(similarity), labels, count, depth, random);
  const std::vector<double> s = similarity_matrix(similarity, anchors, anchors);
  for (size_t r = 0; r < rule_count; ++r) {
    const SelectionRule& rule = rules.next();
    context = describe(rule, count, count, depth, labels);
    check_selection<T>(rule, anchors, nullptr, s);
  }
}

// Enough work for eight threads in either pass, with ties across threads.
template <class T>
void check_workers(Values values, Labels labels) {
  Random random(5);
  const int64_t count = 257, depth = 257;
  const Batch<T> anchors(values, labels, count, depth, random), refs(values, labels, count, depth, random);
  const SelectionRule easy_hard;
  const SelectionRule all_random{Similarity::kCosine, Positive::kRandom, Negative::kRandom};
  SelectionRule random_among_marked = all_random;
  random_among_marked.duplicate_threshold = 0.5;
  const SelectionRule hard_semihard{Similarity::kCosine, Positive::kHardest, Negative::kSemihard, Fallback::kHardest};
  for (const Similarity similarity : kSimilarities) {
    for (SelectionRule rule : {easy_hard, hard_semihard, all_random, random_among_marked}) {
      rule.similarity = similarity;
      for (const Batch<T>* others : {static_cast<const Batch<T>*>(nullptr), &refs}) {
        const Selection<T> serial(rule, anchors, others, SerialPool());
        for (const auto& pool : parallel_pools()) {
          context = std::to_string(pool->count()) + " threads, " + describe(rule, count, count, depth, labels);
          CHECK(serial.same(Selection<T>(rule, anchors, others, *pool)));
        }
      }
    }
  }
}

}  // namespace

// Where other processes run, each parallel region waits for a scheduler slice.
TEST(select_triplets_small_batch_has_no_parallel_region) {
  struct Case {
    int64_t count, depth, regions;
  };
  for (const Case& c : {Case{128, 128, 0}, Case{128, 512, 0}, Case{512, 128, 0}, Case{1024, 128, 1}}) {
    context = std::to_string(c.count) + " x " + std::to_string(c.depth);
    const std::vector<float> x(c.count * c.depth, 1.0F);
    std::vector<int64_t> label(c.count), index(2 * c.count);
    for (int64_t i = 0; i < c.count; ++i) label[i] = i / 2;
    std::vector<float> similarity(2 * c.count);
    const SelectionRule rule{};
    const CountingPool pool;
    cpu::select_triplets<float>(rule, {x.data(), label.data(), c.count}, nullptr, c.depth, {}, pool,
                                {index.data(), index.data() + c.count, similarity.data(), similarity.data() + c.count});
    CHECK_EQ(pool.regions(), c.regions);
  }
}

TEST(select_triplets_with_forced_target_runs_on_it) { check_forced_target(); }

TYPED_TEST(select_triplets_any_count_rule_and_labels_matches_double_loop, T) {
  coverage = {};
  for (const Similarity similarity : kSimilarities) {
    const std::vector<SelectionRule> all = all_rules(similarity);
    Deck<SelectionRule> rules(all, sizeof(T) + static_cast<size_t>(similarity));
    for (const int64_t count : kCounts)
      for (const Labels labels : kLabels)
        check_symmetric<T>(rules, similarity, labels, count, 5, count < 40 ? all.size() : 10);
  }
  CHECK(coverage.positives > coverage.anchors / 4 && coverage.positives < coverage.anchors);
  CHECK(coverage.negatives > coverage.anchors / 4 && coverage.negatives < coverage.anchors);
  CHECK(coverage.semihard > coverage.anchors / 10);
  CHECK(coverage.no_semihard > coverage.anchors / 10);
}

TYPED_TEST(select_triplets_any_depth_matches_double_loop, T) {
  for (const Similarity similarity : kSimilarities) {
    Deck<SelectionRule> rules(all_rules(similarity), sizeof(T) + static_cast<size_t>(similarity));
    for (const int64_t depth : kDepths)
      for (const int64_t count : {5, 17, 97})
        for (const Labels labels : {Labels::kRandom, Labels::kPairsSorted})
          check_symmetric<T>(rules, similarity, labels, count, depth, 8);
  }
}

TYPED_TEST(select_triplets_any_ref_count_matches_double_loop, T) {
  coverage = {};
  struct Case {
    SelectionRule rule;
    Labels labels;
    int64_t depth;
  };
  constexpr int64_t depths[] = {3, 17};
  std::vector<Case> cases;
  for (const Similarity similarity : kSimilarities)
    for (const Case& c : cases_of<Case>(all_rules(similarity), kLabels, depths)) cases.push_back(c);
  Deck<Case> deck(cases, sizeof(T));
  for (const int64_t rows : kCounts) {
    for (const int64_t columns : kCounts) {
      for (int64_t n = 0; n < 6; ++n) {
        const auto& [rule, labels, depth] = deck.next();
        Random random(rows * 1000 + columns);
        const Batch<T> anchors(exact_values(rule.similarity), labels, rows, depth, random);
        const Batch<T> refs(exact_values(rule.similarity), labels, columns, depth, random);
        context = describe(rule, rows, columns, depth, labels);
        check_selection(rule, anchors, &refs, similarity_matrix(rule.similarity, anchors, refs));
      }
    }
  }
  CHECK(coverage.positives > coverage.anchors / 4 && coverage.positives < coverage.anchors);
  CHECK(coverage.semihard > 500 && coverage.no_semihard > 500);
}

// The similarities of NaN and infinite rows follow from IEEE arithmetic, in the oracle as in the engine.
TYPED_TEST(select_triplets_nan_similarities_are_not_candidates, T) {
  const T nan = std::numeric_limits<T>::quiet_NaN(), inf = std::numeric_limits<T>::infinity();
  for (const Similarity similarity : kSimilarities) {
    Random random(11);
    Batch<T> anchors(exact_values(similarity), Labels::kRandom, 41, 19, random);
    anchors.row(3)[0] = nan;
    anchors.row(17)[18] = nan;  // in the last, partial vector
    anchors.row(20)[16] = inf;
    anchors.row(40)[5] = -inf;
    for (int64_t k = 0; k < 19; ++k) anchors.row(29)[k] = nan;
    const std::vector<double> s = similarity_matrix(similarity, anchors, anchors);
    const Batch<T> refs = anchors;
    const Batch<T> clean(exact_values(similarity), Labels::kRandom, 41, 19, random);
    const std::vector<double> clean_s = similarity_matrix(similarity, clean, refs);
    const std::vector<double> other_s = similarity_matrix(similarity, refs, clean);
    for (const SelectionRule& rule : all_rules(similarity)) {
      context = "non-finite, " + describe(rule, 41, 41, 19, Labels::kRandom);
      check_selection<T>(rule, anchors, nullptr, s);
      check_selection(rule, clean, &refs, clean_s);
      check_selection(rule, refs, &clean, other_s);
      CHECK(!Selection<T>(rule, anchors, nullptr, SerialPool()).finite);
      CHECK(!Selection<T>(rule, clean, &refs, SerialPool()).finite);
      CHECK(!Selection<T>(rule, refs, &clean, SerialPool()).finite);
      CHECK(Selection<T>(rule, clean, nullptr, SerialPool()).finite);
    }
  }
}

// If all rows are equal, every similarity ties. The lowest admissible index wins, in whichever tile it is.
TYPED_TEST(select_triplets_ties_go_to_lowest_index, T) {
  Random random(3);
  for (const int64_t count : {2, 33, 97, 300}) {
    Batch<T> anchors(Values::kIntegers, Labels::kRandom, count, 4, random);
    std::fill(anchors.x.begin(), anchors.x.end(), T(1));
    for (const Positive positive : {Positive::kEasiest, Positive::kHardest}) {
      for (const Negative negative : {Negative::kHardest, Negative::kEasiest, Negative::kSemihard}) {
        for (const Similarity similarity : kSimilarities) {
          SelectionRule rule;
          rule.similarity = similarity;
          rule.positive = positive;
          rule.negative = negative;
          rule.semihard_keeps_ties = true;
          context = describe(rule, count, count, 4, Labels::kRandom);
          const Selection<T> got(rule, anchors, nullptr, SerialPool());
          for (int64_t i = 0; i < count; ++i) {
            int64_t first_positive = -1, first_negative = -1;
            for (int64_t j = count; j-- > 0;) {
              if (anchors.label[j] != anchors.label[i]) first_negative = j;
              if (anchors.label[j] == anchors.label[i] && j != i) first_positive = j;
            }
            CHECK_EQ(got.positive_index[i], first_positive);
            const bool has_bound = negative != Negative::kSemihard || first_positive >= 0;
            CHECK_EQ(got.negative_index[i], has_bound ? first_negative : -1);
          }
        }
      }
    }
  }
}

// With real numbers the selected row must be as good as the best one, up to rounding, and its reported similarity must
// be its own.
TYPED_TEST(select_triplets_real_numbers_match_within_rounding, T) {
  for (const Similarity similarity : kSimilarities) {
    for (const int64_t depth : {1, 64, 257}) {
      Random random(depth);
      const Batch<T> anchors(Values::kReals, Labels::kRandom, 97, depth, random);
      const std::vector<double> s = similarity_matrix(similarity, anchors, anchors);
      // |x . y| <= depth. A squared distance is at most 4 depth; its square root loses half the digits near 0.
      const double eps = std::numeric_limits<T>::epsilon();
      const double tolerance = similarity == Similarity::kCosine ? 8 * eps : eps * static_cast<double>(depth);
      for (const SelectionRule& rule : all_rules(similarity)) {
        if (rule.negative == Negative::kSemihard) continue;  // rounding may move a candidate across its bound
        SelectionRule unbounded = rule;
        unbounded.duplicate_threshold = kInfinity;
        context = describe(unbounded, 97, 97, depth, Labels::kRandom);
        const Selection<T> got(unbounded, anchors, nullptr, SerialPool());
        for (int64_t i = 0; i < 97; ++i) {
          const double* s_row = s.data() + i * 97;
          const ChosenPair want = choose_pair(unbounded, s_row, 97, i, anchors.label[i], anchors.label,
                                              got.u_positive[i], got.u_negative[i]);
          CHECK_EQ(got.positive_index[i] >= 0, want.positive.index >= 0);
          if (want.positive.index >= 0) {
            CHECK_NEAR(got.positive_similarity[i], s_row[got.positive_index[i]], tolerance);
            CHECK_NEAR(got.positive_similarity[i], want.positive.similarity, tolerance);
          }
          CHECK_NEAR(got.negative_similarity[i], s_row[got.negative_index[i]], tolerance);
          CHECK_NEAR(got.negative_similarity[i], want.negative.similarity, tolerance);
        }
      }
    }
  }
}

TEST(select_triplets_any_threads_give_same_bits) {
  check_workers<float>(Values::kIntegers, Labels::kOneClass);
  check_workers<float>(Values::kIntegers, Labels::kRandom);
  check_workers<double>(Values::kReals, Labels::kDescending);
}
