// Every SIMD target of this CPU compared with the scalar one, bit for bit, on numbers that round.

#include <stdexcept>

#include "core/selection.h"
#include "support/check.h"
#include "support/packed_batch.h"
#include "support/simd_targets.h"

using namespace hardmine;
using namespace hardmine::test;

TEST(targets_tile_sizes_divide_blocks) {
  for (const BuiltTarget& target : built_targets()) {
    std::cout << target.name << (target.available ? ": compared" : ": NOT compared, this CPU lacks it") << std::endl;
    // The block sizes of the tile engine require this.
    for (const int64_t micro_tile_rows : {target.for_float.micro_tile_rows, target.for_double.micro_tile_rows}) {
      CHECK_EQ(cpu::kMaxBlockRows % micro_tile_rows, 0);
      CHECK_EQ(24 % micro_tile_rows, 0);
    }
  }
}

TEST(target_unknown_name_is_an_error_and_default_is_best) {
  // The first successful call chooses the target, so the failing call comes first.
  setenv("HARDMINE_SIMD", "mmx", 1);
  CHECK_THROWS(cpu::simd_target_index(), std::runtime_error, "HARDMINE_SIMD must be one of 'scalar'");
  CHECK_THROWS(cpu::simd_target_index(), std::runtime_error, "got 'mmx'");
  unsetenv("HARDMINE_SIMD");
  std::string best;
  for (const BuiltTarget& target : built_targets())
    if (target.available) best = target.name;
  CHECK_EQ(std::string(cpu::simd_target_name()), best);
  for (const BuiltTarget& target : built_targets()) {
    CHECK_EQ(cpu::kernels<cpu::RowKernels<float>>().dot == target.for_float.dot, target.name == best);
    CHECK_EQ(cpu::kernels<cpu::RowKernels<double>>().dot == target.for_double.dot, target.name == best);
  }
}

TYPED_TEST(row_kernels_any_target_gives_same_bits, T) {
  for_each_target<T>([](const BuiltTarget& target, const Kernels<T>& scalar, const Kernels<T>& simd) {
    for (const int64_t depth : kDepths) {
      for (const bool special : {false, true}) {
        context = target.name + ", depth " + std::to_string(depth) + (special ? ", specials" : "");
        Random random(depth);
        const std::vector<T> x = rough_rows<T>(5, depth, special, random), y = rough_rows<T>(5, depth, special, random);
        std::vector<T> scalar_norm(5), simd_norm(5);
        CHECK_EQ(simd.row_norms(x.data(), 5, depth, simd_norm.data()),
                 scalar.row_norms(x.data(), 5, depth, scalar_norm.data()));
        CHECK(same_bits(simd_norm, scalar_norm));
        for (int64_t i = 0; i < 5; ++i) {
          const T *a = x.data() + i * depth, *b = y.data() + i * depth;
          CHECK(same_bits(simd.dot(a, b, depth), scalar.dot(a, b, depth)));
          CHECK(same_bits(simd.distance(a, b, depth), scalar.distance(a, b, depth)));
          CHECK(same_bits(simd.squared_distance(a, b, depth), scalar.squared_distance(a, b, depth)));
          const T weight = T(2 * random.unit() - 1), norm = T(0.1 + random.unit());
          const std::vector<T> acc = rough_rows<T>(1, depth, false, random);
          const auto both = [&](const auto& call) {
            std::vector<T> with_simd = acc, with_scalar = acc;
            call(simd, with_simd.data());
            call(scalar, with_scalar.data());
            CHECK(same_bits(with_simd, with_scalar));
            CHECK(!same_bits(with_simd, acc));
          };
          const T* const rows[] = {a, b, x.data()};
          const T weights[] = {weight, norm, T(1)};
          both([&](const Kernels<T>& k, T* out) { k.weighted_sum(rows, weights, 3, depth, out); });
          both([&](const Kernels<T>& k, T* out) { k.add_scaled_difference(out, weight, b, a, depth); });
          both([&](const Kernels<T>& k, T* out) { k.project(out, a, norm, weight, depth); });
        }
      }
    }
  });
}

// Packed rows as csrc/cpu/simd/pack.h defines them.
template <class T>
std::vector<T> packed_rows(const std::vector<T>& x, int64_t depth, const std::vector<Index>& order, const T* scale,
                           int64_t group) {
  const int64_t count = std::ssize(order);
  std::vector<T> packed(round_up_to(count, group) * depth, T(0));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t k = 0; k < depth; ++k) {
      const T value = x[order[i] * depth + k];
      packed[i / group * group * depth + k * group + i % group] = scale ? value / scale[order[i]] : value;
    }
  return packed;
}

TYPED_TEST(pack_any_target_gives_same_bits, T) {
  for_each_target<T>([](const BuiltTarget& target, const Kernels<T>& scalar, const Kernels<T>& simd) {
    for (const int64_t depth : kDepths) {
      for (const int64_t count : {1, 13, 33}) {
        Random random(depth + count);
        const std::vector<T> x = rough_rows<T>(count, depth, true, random);
        std::vector<T> norm(count);
        scalar.row_norms(x.data(), count, depth, norm.data());
        std::vector<Index> order(count);
        std::iota(order.begin(), order.end(), 0);
        random.shuffle(order);
        for (const Kernels<T>* kernel : {&scalar, &simd}) {
          for (const int64_t group : {kernel->micro_tile_rows, kernel->panel_columns}) {
            for (const T* scale : {static_cast<const T*>(nullptr), static_cast<const T*>(norm.data())}) {
              context = target.name + ", depth " + std::to_string(depth) + ", count " + std::to_string(count);
              std::vector<T> packed(round_up_to(count, group) * depth, T(7));
              kernel->pack(x.data(), depth, order.data(), scale, count, 0, count, group, packed.data());
              CHECK(same_bits(packed, packed_rows(x, depth, order, scale, group)));
            }
          }
        }
      }
    }
  });
}

// Targets have tiles of different sizes, so whole passes are compared.
TYPED_TEST(select_block_any_target_gives_same_bits, T) {
  const T inf = std::numeric_limits<T>::infinity();
  for_each_target<T>([&](const BuiltTarget& target, const Kernels<T>& scalar, const Kernels<T>& simd) {
    int64_t selected = 0;
    for (const int64_t depth : kDepths) {
      for (const int64_t count : {7, 50}) {
        Random random(depth + count);
        Batch<T> rows(Values::kReals, Labels::kRandom, count, depth, random);
        Batch<T> columns(Values::kReals, Labels::kRandom, count + 17, depth, random);
        rows.x = rough_rows<T>(count, depth, depth < 20, random);
        const PackedBatch<T> scalar_rows(scalar, rows), simd_rows(simd, rows);
        const PackedBatch<T> scalar_columns(scalar, columns), simd_columns(simd, columns);
        for (const auto& [symmetric, same_class, euclidean, largest_wins, bounded] : all_flags<5>()) {
          context = target.name + ", depth " + std::to_string(depth) + ", count " + std::to_string(count) +
                    text_of({{"symmetric", symmetric},
                             {"same class", same_class},
                             {"euclidean", euclidean},
                             {"largest wins", largest_wins},
                             {"bounded", bounded}});
          const auto pass = [&](const PackedBatch<T>& r, const PackedBatch<T>& c) {
            return cpu::PairwiseParams<T>{r.view(), symmetric ? r.view() : c.view(), depth, symmetric, euclidean,
                                          false};
          };
          const KeyRange<T> range{-inf, kBelowRange, bounded ? T(euclidean ? -0.5 : 0.5) : inf};
          const PassResult<T> got =
              run_pass(simd, pass(simd_rows, simd_columns), same_class, largest_wins, range, bounded, 24, 2);
          const PassResult<T> want =
              run_pass(scalar, pass(scalar_rows, scalar_columns), same_class, largest_wins, range, bounded, 96, 3);
          CHECK(got.index == want.index);
          CHECK(same_bits(got.key, want.key));
          for (const Index index : got.index) selected += is_candidate(index);
        }
      }
    }
    CHECK(selected > 1000);
  });
}
