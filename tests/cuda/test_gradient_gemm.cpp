// Products of strips compared with plain sums in double.

#include "cuda/gemm/gradient_gemm.h"

#include <cmath>
#include <limits>

#include "host_workspace.h"
#include "mma_policies.h"

using namespace hardmine;
using namespace hardmine::cuda;
using namespace hardmine::test;

namespace {

struct Problem {
  int64_t rows, count, depth;  // of the strip; of the rows, which are the strip's columns
  bool divides = false, centered = false;
  double weight_size = 1;
};

std::vector<double> numbers(int64_t count, uint64_t seed) {
  Random random(seed);
  return make_rows<double>(Values::kReals, count, 1, random);
}

template <class Use>
void for_ways(const Use& use) {
  for_products(use);
  use(Way<FloatProducts, BFloat16>{"float of bfloat16"});
  use(Way<FloatProducts, Float16>{"float of float16"});
}

// The rounding error of the factors.
template <class MmaPolicy>
double rounding() {
  using Packed = typename MmaPolicy::Packed;
  if (std::is_same_v<Packed, double>) return 1e-14;
  if (!MmaPolicy::kTensorCores) return 1e-6;
  return std::is_same_v<Packed, BFloat16> ? 4e-3 : std::is_same_v<Packed, Float16> ? 5e-4 : 1e-3;  // TF32: both factors
}

template <class Way>
struct Case {
  using MmaPolicy = typename Way::MmaPolicy;
  using Scalar = typename Way::Scalar;
  using acc_t = typename Way::acc_t;
  Problem p;
  std::vector<Scalar> x;
  std::vector<acc_t> weight, divisor, center;

  explicit Case(const Problem& p) : p(p), x(converted<Scalar>(numbers(p.count * p.depth, 1))) {
    // Rows and columns of very different magnitudes. The magnitudes of rows are powers of two, as those of weights are.
    const std::vector<double> sizes = numbers(p.rows * p.count, 2);
    for (int64_t r = 0; r < p.rows; ++r)
      for (int64_t c = 0; c < p.count; ++c)
        weight.push_back(static_cast<acc_t>(sizes[r * p.count + c] * std::ldexp(p.weight_size, r % 5 * 3)));
    for (int64_t c = 0; c < p.count; ++c)
      divisor.push_back(static_cast<acc_t>(0.5 + 0.25 * static_cast<double>(c % 7)));
    for (int64_t d = 0; d < p.depth; ++d) center.push_back(static_cast<acc_t>(0.125 * static_cast<double>(d % 5)));
  }

  bool centered() const { return p.centered && sizeof(typename MmaPolicy::Packed) > 2; }
  GradientGemmRows<Scalar, acc_t> rows() const {
    return {x.data(), p.count, p.depth, p.divides ? divisor.data() : nullptr, centered() ? center.data() : nullptr};
  }
  double row(int64_t i, int64_t d) const {
    double value = static_cast<double>(to_acc(x[i * p.depth + d]));
    if (p.divides) value /= static_cast<double>(divisor[i]);
    return centered() ? value - static_cast<double>(center[d]) : value;
  }
  double w(int64_t r, int64_t c) const { return static_cast<double>(weight[r * p.count + c]); }
};

// Compares `out` with the sum over n of term(i, d, n). Rounding errors are relative to the terms.
template <class MmaPolicy, class Term>
void check_sums(const std::vector<typename MmaPolicy::acc_t>& out, int64_t count, int64_t depth, int64_t terms,
                double start, const Term& term) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t d = 0; d < depth; ++d) {
      double sum = start, size = std::fabs(start);
      for (int64_t n = 0; n < terms; ++n) {
        sum += term(i, d, n);
        size += std::fabs(term(i, d, n));
      }
      CHECK_NEAR(static_cast<double>(out[i * depth + d]), sum, size * rounding<MmaPolicy>() + 1e-300);
    }
}

template <class Way>
void check_straight(const Problem& p) {
  using MmaPolicy = typename Way::MmaPolicy;
  using acc_t = typename Way::acc_t;
  const Case<Way> c(p);
  std::vector<acc_t> first;
  for (const Running& running : kRunnings) {
    const WithOrder order(running.order);
    const Stream stream{running.max_blocks};
    HostWorkspace workspace;
    const auto products = make_gradient_gemm<MmaPolicy>(c.rows(), {.strip_rows = p.rows}, workspace, stream);
    std::vector<acc_t> out(p.rows * p.depth, std::numeric_limits<acc_t>::quiet_NaN());
    gradient_gemm<MmaPolicy>(products, {c.weight.data(), p.rows, p.count}, out.data(), stream);
    if (first.empty()) {
      first = out;
      check_sums<MmaPolicy>(out, p.rows, p.depth, p.count, 0,
                            [&](int64_t r, int64_t d, int64_t n) { return c.w(r, n) * c.row(n, d); });
    }
    CHECK(same_bits(out, first));
  }
}

// Each column of the strip gets the weighted sum of the strip's rows, which start at `first_row`.
template <class Way>
void check_transposed(const Problem& strip, int64_t first_row, int64_t row_count) {
  using MmaPolicy = typename Way::MmaPolicy;
  using acc_t = typename Way::acc_t;
  const Case<Way> weights(strip);
  Problem of_rows = strip;
  of_rows.rows = 0;
  of_rows.count = row_count;
  const Case<Way> c(of_rows);
  std::vector<acc_t> first;
  for (const Running& running : kRunnings) {
    const WithOrder order(running.order);
    const Stream stream{running.max_blocks};
    HostWorkspace workspace;
    const auto products = make_gradient_gemm<MmaPolicy>(
        c.rows(), {.strip_rows = strip.rows, .untransposed = false, .transposed_columns = strip.count}, workspace,
        stream);
    std::vector<acc_t> out(strip.count * strip.depth, acc_t(0.5));
    gradient_gemm_transposed_accumulate<MmaPolicy>(products, {weights.weight.data(), strip.rows, strip.count},
                                                   first_row, out.data(), stream);
    if (first.empty()) {
      first = out;
      check_sums<MmaPolicy>(out, strip.count, strip.depth, strip.rows, 0.5,
                            [&](int64_t i, int64_t d, int64_t r) { return weights.w(r, i) * c.row(first_row + r, d); });
    }
    CHECK(same_bits(out, first));
  }
}

}  // namespace

TEST(gradient_gemm_any_policy_matches_double_sum) {
  for_ways([](auto way) {
    using Way = decltype(way);
    context = way.name;
    check_straight<Way>({1, 1, 1});
    check_straight<Way>({5, 130, 3});
    check_straight<Way>({129, 33, 5, true});
    check_straight<Way>({3, 40, 131, true, true});
    check_straight<Way>({3, 40, 5, false, true});
  });
}

TEST(gradient_gemm_splits_match_double_sum) {
  // 16 stages or more, of 64 columns at most: several shares, the last one not full.
  for_ways([](auto way) {
    context = way.name;
    check_straight<decltype(way)>({3, 1100, 2, true});
  });
}

TEST(gradient_gemm_transposed_is_added) {
  for_ways([](auto way) {
    using Way = decltype(way);
    context = way.name;
    check_transposed<Way>({1, 1, 1}, 0, 1);
    check_transposed<Way>({128, 20, 3, true, true}, 0, 300);
    check_transposed<Way>({128, 131, 2}, 128, 300);
    check_transposed<Way>({44, 7, 3, true, true}, 256, 300);
  });
}

TEST(gradient_gemm_any_weight_magnitude_keeps_digits) {
  // Without scaling, Float16 could represent none of these.
  for (const double size : {1e-30, 1e-9, 1e9, 1e30}) {
    context = "size " + std::to_string(size);
    check_straight<Way<Float16Products, Float16>>({6, 30, 3, true, false, size});
    check_straight<Way<Bfloat16Products, BFloat16>>({6, 30, 3, true, false, size});
    check_straight<Way<Tf32Products, float>>({6, 30, 3, true, false, size});
    check_transposed<Way<Float16Products, Float16>>({6, 30, 3, true, false, size}, 0, 6);
  }
}

// In two-byte types, a row at the minimum norm must not push other weights out of range.
TEST(gradient_gemm_any_norm_keeps_digits) {
  for_ways([](auto way) {
    using Way = decltype(way);
    using MmaPolicy = typename Way::MmaPolicy;
    using acc_t = typename Way::acc_t;
    context = way.name;
    Case<Way> c({3, 20, 4, true});
    for (int64_t i = 0; i < 20; ++i) {
      const int exponent = i % 3 == 0 ? -12 : i % 3 == 1 ? 0 : 8;
      c.divisor[i] = static_cast<acc_t>(std::ldexp(0.8, exponent));
      for (int64_t d = 0; d < 4; ++d)
        c.x[i * 4 + d] = from_acc<typename Way::Scalar>(
            static_cast<acc_t>(std::ldexp(static_cast<double>(to_acc(c.x[i * 4 + d])), exponent)));
    }
    c.divisor[7] = acc_t(1e-12);
    for (int64_t d = 0; d < 4; ++d) c.x[7 * 4 + d] = {};
    HostWorkspace workspace;
    const auto products = make_gradient_gemm<MmaPolicy>(c.rows(), {.strip_rows = 3}, workspace, Stream{});
    std::vector<acc_t> out(12);
    gradient_gemm<MmaPolicy>(products, {c.weight.data(), 3, 20}, out.data(), Stream{});
    check_sums<MmaPolicy>(out, 3, 4, 20, 0, [&](int64_t r, int64_t d, int64_t n) { return c.w(r, n) * c.row(n, d); });
  });
}

TEST(gradient_gemm_workspace_serves_any_strip_height) {
  for_ways([](auto way) {
    using Way = decltype(way);
    using MmaPolicy = typename Way::MmaPolicy;
    using acc_t = typename Way::acc_t;
    context = way.name;
    const Problem p{260, 1030, 2};  // the lower strips are multiplied in more shares
    const Case<Way> c(p);
    HostWorkspace workspace;
    const auto products = make_gradient_gemm<MmaPolicy>(c.rows(), {.strip_rows = p.rows, .transposed_columns = p.count},
                                                        workspace, Stream{});
    const int64_t bytes = workspace.bytes();
    for (const int64_t rows : {260, 3, 130}) {
      std::vector<acc_t> out(rows * p.depth), sum(p.count * p.depth, acc_t(0));
      gradient_gemm<MmaPolicy>(products, {c.weight.data(), rows, p.count}, out.data(), Stream{});
      gradient_gemm_transposed_accumulate<MmaPolicy>(products, {c.weight.data(), rows, p.count}, 0, sum.data(),
                                                     Stream{});
      check_sums<MmaPolicy>(out, rows, p.depth, p.count, 0,
                            [&](int64_t r, int64_t d, int64_t n) { return c.w(r, n) * c.row(n, d); });
      check_sums<MmaPolicy>(sum, p.count, p.depth, rows, 0,
                            [&](int64_t i, int64_t d, int64_t r) { return c.w(r, i) * c.row(r, d); });
    }
    CHECK_EQ(workspace.bytes(), bytes);
  });
}

TEST(gradient_gemm_nonfinite_weights_reach_their_rows_only) {
  for_ways([](auto way) {
    using Way = decltype(way);
    using MmaPolicy = typename Way::MmaPolicy;
    using acc_t = typename Way::acc_t;
    context = way.name;
    Case<Way> c({4, 40, 3});
    std::fill_n(c.weight.begin(), 40, acc_t(0));
    c.weight[40 + 7] = std::numeric_limits<acc_t>::quiet_NaN();
    c.weight[80 + 39] = std::numeric_limits<acc_t>::infinity();
    HostWorkspace workspace;
    const auto products = make_gradient_gemm<MmaPolicy>(c.rows(), {.strip_rows = 4}, workspace, Stream{});
    std::vector<acc_t> out(12);
    gradient_gemm<MmaPolicy>(products, {c.weight.data(), 4, 40}, out.data(), Stream{});
    for (int d = 0; d < 3; ++d) {
      CHECK_EQ(out[d], acc_t(0));
      CHECK(std::isnan(out[3 + d]));
      CHECK(!std::isfinite(out[6 + d]));
      CHECK(std::isfinite(out[9 + d]));
    }
    // An empty product does nothing.
    gradient_gemm<MmaPolicy>(products, {c.weight.data(), 0, 40}, out.data(), Stream{});
  });
  HostWorkspace workspace;
  const float x[1] = {1};
  const auto none = make_gradient_gemm<FloatProducts, float>(
      {x, 5, 0, nullptr, nullptr}, {.strip_rows = 5, .transposed_columns = 5}, workspace, Stream{});
  gradient_gemm<FloatProducts>(none, {x, 5, 5}, nullptr, Stream{});
}
