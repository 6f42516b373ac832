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

// Every `stride`-th rule from number `first` on.
template <class Way>
void check_rules(const Way& way, Similarity similarity, Labels labels, int64_t rows, int64_t columns, int64_t depth,
                 size_t first, size_t stride) {
  Random random(rows * 1000 + depth);
  const Batch<double> anchors(exact_values(similarity), labels, rows, depth, random);
  const Batch<double> refs(exact_values(similarity), labels, columns < 0 ? 0 : columns, depth, random);
  const std::vector<double> s = similarity_matrix(similarity, anchors, columns < 0 ? anchors : refs);
  const std::vector<SelectionRule> rules = all_rules(similarity);
  for (size_t r = first % stride; r < rules.size(); r += stride)
    check_selection(way, rules[r], anchors, columns < 0 ? nullptr : &refs, s, kRunnings[(r + first) % 5]);
}

// Calls use(way, similarity) for each valid combination.
template <class Use>
void for_ways(const Use& use) {
  for_products([&](auto way) {
    use(way, Similarity::kCosine);
    use(way, Similarity::kDot);
  });
  for_squared_differences([&](auto way) { use(way, Similarity::kEuclidean); });
}

}  // namespace

// A tile takes the emulation about 50 ms, so each MmaPolicy gets some of the rules. Together they get all.
TEST(select_triplets_any_rule_matches_double_loop) {
  coverage = {};
  size_t turn = 0;
  for_ways([&](auto way, Similarity similarity) {
    check_rules(way, similarity, Labels::kRandom, 24, -1, 5, ++turn, 15);
    check_rules(way, similarity, Labels::kRandom, 17, 29, 5, ++turn + 7, 15);
  });
  CHECK(coverage.anchors > 3000);
  CHECK(coverage.positives > coverage.anchors / 4 && coverage.positives < coverage.anchors);
  CHECK(coverage.negatives > coverage.anchors / 4 && coverage.negatives < coverage.anchors);
  CHECK(coverage.semihard > 100 && coverage.no_semihard > 100);
}

TEST(select_triplets_counts_around_tile_size_match_double_loop) {
  size_t turn = 0;
  for_ways([&](auto way, Similarity similarity) {
    for (const int64_t count : {0, 1, 2, 63, 65, 127, 128, 129, 257})
      check_rules(way, similarity, count % 3 ? Labels::kRandom : Labels::kPairsSorted, count, -1, 7, ++turn * 7, 90);
    for (const auto& [rows, columns] : {std::pair{0, 5}, {5, 0}, {1, 129}, {129, 1}})
      check_rules(way, similarity, Labels::kRandom, rows, columns, 7, ++turn * 7, 90);
  });
}

TEST(select_triplets_depths_around_stage_depth_match_double_loop) {
  size_t turn = 0;
  for_ways([&](auto way, Similarity similarity) {
    for (const int64_t depth : {1, 31, 64, 65, 130, 300})
      check_rules(way, similarity, Labels::kPairsSorted, 33, depth % 2 ? -1 : 40, depth, ++turn * 7, 90);
  });
}

TEST(select_triplets_any_labels_match_double_loop) {
  size_t turn = 0;
  for_ways([&](auto way, Similarity similarity) {
    for (const Labels labels : {Labels::kOneClass, Labels::kAllDistinct, Labels::kExtreme})
      check_rules(way, similarity, labels, 40, labels == Labels::kExtreme ? 41 : -1, 3, ++turn * 7, 90);
  });
}

TEST(select_triplets_any_order_gives_same_bits) {
  size_t turn = 0;
  for_ways([&](auto way, Similarity similarity) {
    Random random(8);
    // Sums of reals depend on their order. Classes are large, so all tiles hold pairs of both kinds.
    const Batch<double> anchors(Values::kReals, Labels::kRandom, 140, 9, random);
    SelectionRule rule;
    rule.similarity = similarity;
    rule.negative = Negative::kSemihard;
    rule.semihard_fallback = Fallback::kHardest;
    context = describe(way.name, rule, anchors.count, anchors);
    const Selection<decltype(way)> first(rule, anchors, nullptr);
    for (const Running& running : {kRunnings[1], kRunnings[2 + ++turn % 3]})
      CHECK(first.same(Selection<decltype(way)>(rule, anchors, nullptr, running)));
  });
}

TEST(select_triplets_nan_rows_are_not_candidates) {
  size_t turn = 0;
  for_ways([&](auto way, Similarity similarity) {
    Random random(9);
    Batch<double> anchors(exact_values(similarity), Labels::kRandom, 40, 5, random);
    anchors.row(3)[2] = kNaN;
    anchors.row(17)[0] = kNaN;
    const std::vector<double> s = similarity_matrix(similarity, anchors, anchors);
    const std::vector<SelectionRule> rules = all_rules(similarity);
    for (size_t r = ++turn % 30; r < rules.size(); r += 30) check_selection(way, rules[r], anchors, nullptr, s);
    // The loss is NaN even if only a row of refs is.
    const Batch<double> finite(exact_values(similarity), Labels::kRandom, 20, 5, random);
    check_selection(way, rules[turn], finite, &anchors, similarity_matrix(similarity, finite, anchors), kRunnings[2]);
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
