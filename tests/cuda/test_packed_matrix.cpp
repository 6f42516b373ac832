// Layouts, and what packing writes: numbers where kernels read them, zeros around them, norms, finite flags.

#include "cuda/gemm/packed_matrix.h"

#include <utility>

#include "host_workspace.h"
#include "mma_policies.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

template <class Use>
void for_ways(const Use& use) {
  for_products(use);
  for_squared_differences(use);
}

// The number stored in a panel.
template <class MmaPolicy>
double number_at(const char* bytes) {
  typename MmaPolicy::Packed packed;
  std::memcpy(&packed, bytes, sizeof packed);
  return static_cast<double>(to_acc(packed));
}

template <class Way>
struct Packed {
  using MmaPolicy = typename Way::MmaPolicy;
  using acc_t = typename Way::acc_t;
  int64_t count, depth;
  std::vector<char> panels;
  std::vector<int32_t> finite;
  std::vector<acc_t> factor;
  bool has_factor;

  Packed(const std::vector<typename Way::Scalar>& x, int64_t count, int64_t depth, bool normalized,
         const Running& running = kRunnings[0], const SelectionStart<acc_t>& start = {})
      : Packed(x, count, depth, PairMeasure{PairQuantity::kInnerProduct, normalized}, running, start) {}
  Packed(const std::vector<typename Way::Scalar>& x, int64_t count, int64_t depth, const PairMeasure& measure,
         const Running& running = kRunnings[0], const SelectionStart<acc_t>& start = {})
      : count(count), depth(depth) {
    const WithOrder order(running.order);
    HostWorkspace workspace;
    const PackedMatrix<MmaPolicy> rows =
        pack_matrix<MmaPolicy>(x.data(), count, depth, measure, workspace, Stream{running.max_blocks}, start);
    CHECK_EQ(rows.count, count);
    CHECK_EQ(rows.depth, depth);
    const int64_t all = panels_of<MmaPolicy>(count);
    panels.assign(rows.panels, rows.panels + all * panel_bytes<MmaPolicy>(depth));
    finite.assign(rows.finite, rows.finite + finite_flag_count(count));
    has_factor = rows.factor != nullptr;
    if (has_factor) factor.assign(rows.factor, rows.factor + count);
    if (all > 1) CHECK_EQ(rows.panel(1) - rows.panels, panel_bytes<MmaPolicy>(depth));
  }

  double at(int64_t row, int64_t k) const {
    return number_at<MmaPolicy>(panels.data() + row / MmaPolicy::kTile * panel_bytes<MmaPolicy>(depth) +
                                MmaPolicy::offset(static_cast<int>(row % MmaPolicy::kTile), k));
  }
  int64_t padded_count() const { return panels_of<MmaPolicy>(count) * MmaPolicy::kTile; }
  int64_t padded_depth() const { return stages_of<MmaPolicy>(depth) * MmaPolicy::kStageDepth; }
  bool same(const Packed& other) const {
    return same_bits(panels, other.panels) && finite == other.finite && same_bits(factor, other.factor);
  }
};

template <class MmaPolicy>
double rounded(double x) {  // as packed
  if constexpr (std::is_same_v<MmaPolicy, Tf32Products>) {
    const uint32_t bits = round_to_tf32(static_cast<float>(x));
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  return x;
}

}  // namespace

TEST(panel_layout_is_one_to_one) {
  for_ways([](auto way) {
    using MmaPolicy = typename decltype(way)::MmaPolicy;
    context = way.name;
    constexpr int64_t kSize = sizeof(typename MmaPolicy::Packed), kStages = 3;
    std::vector<int> used(kStages * MmaPolicy::kStageBytes / kSize);
    for (int64_t k = 0; k < kStages * MmaPolicy::kStageDepth; ++k) {
      for (int row = 0; row < MmaPolicy::kTile; ++row) {
        const int64_t offset = MmaPolicy::offset(row, k);
        CHECK_EQ(offset % kSize, 0);
        CHECK_EQ(offset / MmaPolicy::kStageBytes, k / MmaPolicy::kStageDepth);  // a stage is contiguous
        ++used.at(offset / kSize);
      }
    }
    CHECK(used == std::vector<int>(used.size(), 1));
  });
}

TEST(tile_layout_gives_each_score_one_thread) {
  for_ways([](auto way) {
    using MmaPolicy = typename decltype(way)::MmaPolicy;
    context = way.name;
    std::vector<int> owners(MmaPolicy::kTile * MmaPolicy::kTile);
    emulation::run("owners", 1, kTileThreads, 0, [&] {
      for (int r = 0; r < MmaPolicy::kRows; ++r) {
        if (r > 0) CHECK(MmaPolicy::row(r) > MmaPolicy::row(r - 1));  // ties rely on it
        for (int c = 0; c < MmaPolicy::kColumns; ++c) {
          if (c > 0) CHECK(MmaPolicy::column(c) > MmaPolicy::column(c - 1));
          ++owners.at(MmaPolicy::row(r) * MmaPolicy::kTile + MmaPolicy::column(c));
        }
      }
    });
    CHECK(owners == std::vector<int>(owners.size(), 1));
  });
}

TEST(pack_matrix_follow_layout_and_pad_with_zeros) {
  for_ways([](auto way) {
    using MmaPolicy = typename decltype(way)::MmaPolicy;
    using Scalar = typename decltype(way)::Scalar;
    constexpr int64_t kTile = MmaPolicy::kTile, kDepth = MmaPolicy::kStageDepth;
    const int64_t counts[] = {1, 16, 17, kTile - 1, kTile + 1}, depths[] = {1, kDepth, kDepth + 1, 7, 2 * kDepth - 1};
    for (int i = 0; i < 5; ++i) {
      const int64_t count = counts[i], depth = depths[i];
      context = std::string(way.name) + ", count " + std::to_string(count) + ", depth " + std::to_string(depth);
      Random random(count + depth);
      const std::vector<Scalar> x = converted<Scalar>(make_rows<double>(Values::kReals, count, depth, random));
      const Packed<decltype(way)> packed(x, count, depth, false);
      CHECK(!packed.has_factor);
      for (int64_t row = 0; row < packed.padded_count(); ++row)
        for (int64_t k = 0; k < packed.padded_depth(); ++k)
          CHECK_EQ(packed.at(row, k), row < count && k < depth ? rounded<MmaPolicy>(to_acc(x[row * depth + k])) : 0.0);
      CHECK(packed.finite == std::vector<int32_t>((count + 15) / 16, 1));
      for (const Running& running : kRunnings)
        CHECK(packed.same(Packed<decltype(way)>(x, count, depth, false, running)));
    }
  });
}

TEST(pack_matrix_empty_input_packs_nothing) {
  for_ways([](auto way) {
    context = way.name;
    using Scalar = typename decltype(way)::Scalar;
    CHECK(Packed<decltype(way)>(std::vector<Scalar>{}, 0, 5, true).finite.empty());
    const Packed<decltype(way)> packed(std::vector<Scalar>{}, 17, 0, false);
    CHECK(packed.panels.empty());
    CHECK(packed.finite == std::vector<int32_t>(2, 1));
  });
}

TEST(pack_matrix_normalized_divides_or_keeps_inverse_norm) {
  for_products([](auto way) {
    using MmaPolicy = typename decltype(way)::MmaPolicy;
    using Scalar = typename decltype(way)::Scalar;
    using acc_t = typename decltype(way)::acc_t;
    context = way.name;
    constexpr bool kScales = sizeof(Scalar) == 2;
    constexpr int64_t kCount = 45, kDepth = 37;
    Random random(3);
    std::vector<double> numbers = make_rows<double>(Values::kReals, kCount, kDepth, random);
    for (int64_t k = 0; k < kDepth; ++k) numbers[5 * kDepth + k] = 0;                  // no direction
    for (int64_t k = 0; k < kDepth; ++k) numbers[6 * kDepth + k] = k == 7 ? 3e-6 : 0;  // small, and above 1e-12
    numbers[7 * kDepth] = -1000;
    const std::vector<Scalar> x = converted<Scalar>(numbers);
    const Packed<decltype(way)> packed(x, kCount, kDepth, true);
    CHECK_EQ(packed.has_factor, kScales);
    // TF32 keeps 11 significant bits.
    const double tolerance =
        std::is_same_v<MmaPolicy, Tf32Products> ? 0x1p-11 : 8 * double(std::numeric_limits<acc_t>::epsilon());
    for (int64_t row = 0; row < kCount; ++row) {
      double squares = 0;
      for (int64_t k = 0; k < kDepth; ++k) squares += std::pow(double(to_acc(x[row * kDepth + k])), 2);
      const double norm = std::fmax(std::sqrt(squares), 1e-12);
      if (kScales) CHECK_NEAR(double(packed.factor[row]) * norm, 1, 1e-6);
      for (int64_t k = 0; k < kDepth; ++k) {
        const double number = to_acc(x[row * kDepth + k]);
        CHECK_NEAR(packed.at(row, k), kScales ? number : number / norm, kScales ? 0 : tolerance);
      }
    }
    for (const Running& running : kRunnings)
      CHECK(packed.same(Packed<decltype(way)>(x, kCount, kDepth, true, running)));
  });
}

TEST(pack_matrix_hyperbolic_makes_factor_of_gap) {
  for_squared_differences([](auto way) {
    using Scalar = typename decltype(way)::Scalar;
    using acc_t = typename decltype(way)::acc_t;
    context = way.name;
    constexpr PairMeasure kMeasure{PairQuantity::kNegativeHyperbolicDistance, false};
    constexpr int64_t kCount = 45, kDepth = 7;
    Random random(3);
    std::vector<double> numbers = make_rows<double>(Values::kReals, kCount, kDepth, random);
    for (int64_t row = 0; row < kCount; ++row) numbers[(row + 1) * kDepth - 1] = std::ldexp(1.0, -int(row));
    const std::vector<Scalar> x = converted<Scalar>(numbers);
    const Packed<decltype(way)> packed(x, kCount, kDepth, kMeasure);
    CHECK(packed.has_factor);
    for (int64_t row = 0; row < kCount; ++row) {
      const double gap = to_acc(x[(row + 1) * kDepth - 1]);
      CHECK_EQ(packed.factor[row], acc_t(std::sqrt(2.0) / gap));
      for (int64_t k = 0; k < packed.padded_depth(); ++k)
        CHECK_EQ(packed.at(row, k), k < kDepth - 1 ? double(to_acc(x[row * kDepth + k])) : 0.0);
    }
    for (const Running& running : kRunnings)
      CHECK(packed.same(Packed<decltype(way)>(x, kCount, kDepth, kMeasure, running)));
  });
}

TEST(pack_matrix_nonfinite_row_clears_group_flag) {
  for_ways([](auto way) {
    using Scalar = typename decltype(way)::Scalar;
    context = way.name;
    constexpr int64_t kCount = 150, kDepth = 40;
    constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    // One row of each kind, including the last row of the last group. A norm that overflows counts too.
    const double large = std::is_same_v<Scalar, double> ? 1e200 : std::is_same_v<Scalar, Float16> ? 1e30 : 1e25;
    const std::pair<int64_t, double> troubles[] = {{0, nan}, {31, infinity}, {64, -infinity}, {95, large}, {149, nan}};
    Random random(4);
    std::vector<double> numbers = make_rows<double>(Values::kReals, kCount, kDepth, random);
    std::vector<int32_t> want(10, 1);
    for (const auto& [row, value] : troubles) {
      numbers[row * kDepth + row % kDepth] = value;
      want[row / 16] = 0;
    }
    const std::vector<Scalar> x = converted<Scalar>(numbers);
    for (const bool normalized : {false, true})
      for (const Running& running : kRunnings)
        CHECK(Packed<decltype(way)>(x, kCount, kDepth, normalized, running).finite == want);
  });
}

TEST(pack_matrix_initializes_selection_state) {
  for_ways([](auto way) {
    using Scalar = typename decltype(way)::Scalar;
    using acc_t = typename decltype(way)::acc_t;
    context = way.name;
    constexpr int64_t kCount = 37;
    std::vector<PackedCandidate<acc_t>> first(kCount + 1, PackedCandidate<acc_t>::of(9, 9)), third = first;
    int32_t blocks_done = 77;
    SelectionStart<acc_t> start;
    start.best[0] = first.data();
    start.value[0] = PackedCandidate<acc_t>::of(acc_t(0.5), kAtLowerBound);
    start.best[2] = third.data();
    start.value[2] = PackedCandidate<acc_t>::of(acc_t(-2), kBelowRange);
    start.blocks_done = &blocks_done;
    const Packed<decltype(way)> packed(std::vector<Scalar>(kCount), kCount, 1, false, kRunnings[2], start);
    for (int64_t i = 0; i < kCount; ++i) {
      CHECK_EQ(first[i].key(), acc_t(0.5));
      CHECK_EQ(first[i].index(), kAtLowerBound);
      CHECK_EQ(third[i].key(), acc_t(-2));
      CHECK_EQ(third[i].index(), kBelowRange);
    }
    CHECK_EQ(first[kCount].index(), 9);
    CHECK_EQ(blocks_done, 0);
  });
}
