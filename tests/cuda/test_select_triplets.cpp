// Selections on the emulation compared with a double loop over all pairs: every MmaPolicy, rule and kind of label,
// sizes around those of tiles, and any order of blocks and threads.

#include "cuda/kernels/select_triplets.h"

#include "host_workspace.h"
#include "mma_policies.h"
#include "support/check_selection.h"
#include "support/names.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

template <class Way>
struct Selection {
  using acc_t = typename Way::acc_t;
  std::vector<int64_t> positive_index, negative_index;
  std::vector<acc_t> positive_similarity, negative_similarity, loss;
  std::vector<double> u_positive, u_negative;  // the random numbers of random selections

  Selection(const SelectionRule& rule, const Batch<double>& anchors, const Batch<double>* refs,
            const Running& running = kRunnings[0])
      : positive_index(anchors.count, -7),
        negative_index(anchors.count, -7),
        positive_similarity(anchors.count),
        negative_similarity(anchors.count),
        loss(1, acc_t(-7)),
        u_positive(anchors.count),
        u_negative(anchors.count) {
    using Scalar = typename Way::Scalar;
    Random random(anchors.count);
    for (int64_t i = 0; i < anchors.count; ++i) {
      u_positive[i] = random.unit();
      u_negative[i] = random.unit();
    }
    const WithOrder order(running.order);
    const std::vector<Scalar> x = converted<Scalar>(anchors.x), y = converted<Scalar>(refs ? refs->x : anchors.x);
    const LabeledMatrix<Scalar> rows{x.data(), anchors.label.data(), anchors.count};
    const LabeledMatrix<Scalar> others = refs ? LabeledMatrix<Scalar>{y.data(), refs->label.data(), refs->count} : rows;
    LossOut<acc_t> loss_out;
    loss_out.term.term = Term::kHinge;
    loss_out.term.margin = 0.5;
    loss_out.loss = loss.data();
    HostWorkspace workspace;
    cuda::select_triplets<typename Way::MmaPolicy, Scalar>(
        rule, rows, refs ? &others : nullptr, anchors.depth, {u_positive.data(), u_negative.data()},
        {positive_index.data(), negative_index.data(), positive_similarity.data(), negative_similarity.data()},
        loss_out, workspace, Stream{running.max_blocks});
  }
  bool same(const Selection& other) const {
    return positive_index == other.positive_index && negative_index == other.negative_index &&
           same_bits(positive_similarity, other.positive_similarity) &&
           same_bits(negative_similarity, other.negative_similarity) && same_bits(loss, other.loss);
  }
};

SelectionCoverage coverage;  // of the current test

std::string describe(const char* way, const SelectionRule& rule, int64_t rows, const Batch<double>& columns) {
  return std::string(way) + ": rows " + std::to_string(rows) + ", columns " + std::to_string(columns.count) +
         ", depth " + std::to_string(columns.depth) + ", " + test::describe(rule);
}

template <class Way>
void check_selection(const Way& way, const SelectionRule& rule, const Batch<double>& anchors, const Batch<double>* refs,
                     const std::vector<double>& s, const Running& running = kRunnings[0]) {
  const Batch<double>& columns = refs ? *refs : anchors;
  context = describe(way.name, rule, anchors.count, columns);
  const Selection<Way> got(rule, anchors, refs, running);
  double sum = 0, valid = 0;
  bool infinite = false;
  for (const double x : anchors.x) infinite |= !std::isfinite(x);
  for (const double x : columns.x) infinite |= !std::isfinite(x);
  for (const ChosenPair& want : check_chosen(rule, anchors, refs, s, got, coverage)) {
    if (want.positive.index < 0 || want.negative.index < 0) continue;
    sum += std::fmax(want.negative.similarity - want.positive.similarity + 0.5, 0);
    ++valid;
  }
  if (infinite) {
    CHECK(std::isnan(got.loss[0]));
  } else {
    const double mean = valid ? sum / valid : 0;
    CHECK_NEAR(got.loss[0], mean, 1e-6 * (1 + mean));
  }
}

// The rules of a similarity and the orders of threads, for a test to deal out.
struct Decks {
  Similarity similarity;
  Deck<SelectionRule> rules{all_rules(similarity), 1 + static_cast<size_t>(similarity)};
  Deck<Running> runnings = deal_runnings();
};

template <class Way>
void check_rules(const Way& way, Decks& decks, Labels labels, int64_t rows, int64_t columns, int64_t depth,
                 int rule_count = 1) {
  const Similarity similarity = decks.similarity;
  Random random(rows * 1000 + depth);
  const Batch<double> anchors(exact_values(similarity), labels, rows, depth, random);
  const Batch<double> refs(exact_values(similarity), labels, columns < 0 ? 0 : columns, depth, random);
  const std::vector<double> s = similarity_matrix(similarity, anchors, columns < 0 ? anchors : refs);
  for (int n = 0; n < rule_count; ++n)
    check_selection(way, decks.rules.next(), anchors, columns < 0 ? nullptr : &refs, s, decks.runnings.next());
}

// Calls use(way, decks) for each valid combination of MmaPolicy and similarity.
template <class Use>
void for_ways(const Use& use) {
  for (const Similarity similarity : {Similarity::kCosine, Similarity::kDot}) {
    Decks decks{similarity};
    for_products([&](auto way) { use(way, decks); });
  }
  Decks decks{Similarity::kEuclidean};
  for_squared_differences([&](auto way) { use(way, decks); });
}

}  // namespace

// A tile takes the emulation about 50 ms, so each MmaPolicy gets some of the rules. Together they get all.
TEST(select_triplets_any_rule_matches_double_loop) {
  coverage = {};
  for_ways([](auto way, Decks& decks) {
    check_rules(way, decks, Labels::kRandom, 24, -1, 5, 12);
    check_rules(way, decks, Labels::kRandom, 17, 29, 5, 12);
  });
  CHECK(coverage.anchors > 3000);
  CHECK(coverage.positives > coverage.anchors / 4 && coverage.positives < coverage.anchors);
  CHECK(coverage.negatives > coverage.anchors / 4 && coverage.negatives < coverage.anchors);
  CHECK(coverage.semihard > 100 && coverage.no_semihard > 100);
}

TEST(select_triplets_counts_around_tile_size_match_double_loop) {
  for_ways([](auto way, Decks& decks) {
    for (const int64_t count : {1, 2, 65, 127, 128, 257}) check_rules(way, decks, Labels::kRandom, count, -1, 7);
    for (const int64_t count : {0, 63, 129}) check_rules(way, decks, Labels::kPairsSorted, count, -1, 7);
    for (const auto& [rows, columns] : {std::pair{0, 5}, {5, 0}, {1, 129}, {129, 1}})
      check_rules(way, decks, Labels::kRandom, rows, columns, 7);
  });
}

TEST(select_triplets_depths_around_stage_depth_match_double_loop) {
  for_ways([](auto way, Decks& decks) {
    for (const int64_t depth : {1, 31, 65}) check_rules(way, decks, Labels::kPairsSorted, 33, -1, depth);
    for (const int64_t depth : {64, 130, 300}) check_rules(way, decks, Labels::kPairsSorted, 33, 40, depth);
  });
}

TEST(select_triplets_any_labels_match_double_loop) {
  for_ways([](auto way, Decks& decks) {
    check_rules(way, decks, Labels::kOneClass, 40, -1, 3);
    check_rules(way, decks, Labels::kAllDistinct, 40, -1, 3);
    check_rules(way, decks, Labels::kExtreme, 40, 41, 3);
  });
}

TEST(select_triplets_any_order_gives_same_bits) {
  for_ways([](auto way, const Decks& decks) {
    Random random(8);
    // Sums of reals depend on their order. Classes are large, so all tiles hold pairs of both kinds.
    const Batch<double> anchors(Values::kReals, Labels::kRandom, 140, 9, random);
    SelectionRule rule;
    rule.similarity = decks.similarity;
    rule.negative = Negative::kSemihard;
    rule.semihard_fallback = Fallback::kHardest;
    context = describe(way.name, rule, anchors.count, anchors);
    const Selection<decltype(way)> first(rule, anchors, nullptr);
    for (const Running& running : kRunnings)
      CHECK(first.same(Selection<decltype(way)>(rule, anchors, nullptr, running)));
  });
}

TEST(select_triplets_nan_rows_are_not_candidates) {
  for_ways([](auto way, Decks& decks) {
    const Values values = exact_values(decks.similarity);
    Random random(9);
    Batch<double> anchors(values, Labels::kRandom, 40, 5, random);
    anchors.row(3)[2] = kNaN;
    anchors.row(17)[0] = kNaN;
    const std::vector<double> s = similarity_matrix(decks.similarity, anchors, anchors);
    for (int n = 0; n < 3; ++n) check_selection(way, decks.rules.next(), anchors, nullptr, s);
    // The loss is NaN even if only a row of refs is.
    const Batch<double> finite(values, Labels::kRandom, 20, 5, random);
    check_selection(way, decks.rules.next(), finite, &anchors, similarity_matrix(decks.similarity, finite, anchors),
                    kRunnings[2]);
  });
}

TEST(select_triplets_large_batch_matches_double_loop) {
  Random random(10);
  const Batch<double> anchors(Values::kIntegers, Labels::kRandom, 2049, 1, random);
  const Batch<double> refs(Values::kIntegers, Labels::kRandom, 30, 1, random);
  const std::vector<double> s = similarity_matrix(Similarity::kDot, anchors, refs);
  SelectionRule rule;
  rule.similarity = Similarity::kDot;
  const Way<FloatProducts, float> way{"float"};
  for (const Running& running : {kRunnings[0], kRunnings[2]}) check_selection(way, rule, anchors, &refs, s, running);
}

// Without reduction, and with separate means of easy and hard triplets: in one block, in several blocks, and in an
// epilogue of its own.
TEST(select_triplets_loss_matches_core) {
  for (const int64_t count : {1, 40, 2049}) {
    Random random(count);
    const Batch<double> anchors(Values::kExactNorms, Labels::kRandom, count, 4, random);
    const Batch<double> refs(Values::kExactNorms, Labels::kRandom, 50, 4, random);
    const std::vector<float> x = converted<float>(anchors.x), y = converted<float>(refs.x);
    const LabeledMatrix<float> rows{x.data(), anchors.label.data(), count}, others{y.data(), refs.label.data(), 50};
    for (const bool separate : {false, true}) {
      for (const Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
        std::vector<int64_t> positive(count), negative(count);
        std::vector<float> to_positive(count), to_negative(count);
        std::vector<float> got(reduction == Reduction::kNone ? count : 1, -7), want = got;
        LossOut<float> loss;
        loss.term.term = Term::kSct;
        loss.term.separate_means = separate;
        loss.reduction = reduction;
        loss.loss = got.data();
        const WithOrder order(kRunnings[2].order);
        HostWorkspace workspace;
        cuda::select_triplets<FloatProducts, float>(
            {}, rows, &others, 4, {}, {positive.data(), negative.data(), to_positive.data(), to_negative.data()}, loss,
            workspace, Stream{separate ? kMaxBlocks : 3});
        reduce_loss(
            loss.term, reduction,
            SelectedPairs<float>{positive.data(), negative.data(), to_positive.data(), to_negative.data(), count},
            want.data());
        context = "anchors " + std::to_string(count) + ", reduction " + name_of(reduction);
        for (size_t i = 0; i < want.size(); ++i) CHECK_NEAR(got[i], want[i], 2e-7 * std::fabs(want[i]));
        if (reduction == Reduction::kNone) CHECK(same_bits(got, want));
      }
    }
  }
}
