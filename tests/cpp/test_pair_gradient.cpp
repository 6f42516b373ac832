// Pair gradients, which the engine gathers per row, compared with a dense scatter in double and with finite
// differences.

#include "cpu/engine/pair_gradient.h"

#include <algorithm>
#include <optional>

#include "support/check.h"
#include "support/names.h"
#include "support/samples.h"
#include "support/simd_targets.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr PairMeasure kMeasures[] = {
    {PairQuantity::kInnerProduct, true},
    {PairQuantity::kInnerProduct, false},
    {PairQuantity::kNegativeDistance, true},
    {PairQuantity::kNegativeDistance, false},
    {PairQuantity::kNegativeSquaredDistance, true},
    {PairQuantity::kNegativeSquaredDistance, false},
};
constexpr PairMeasure kDot = kMeasures[1];
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// How entries are listed: two partners per row, as in a selection; or entries of arbitrary rows in any order, with
// repeats and with another number of partners.
struct Listing {
  bool every_row;
  int64_t entries;
  int64_t partners;
};
constexpr Listing kSelection{true, 0, 2};

template <class T>
struct Problem {
  int64_t count, ref_count, depth, partners;
  std::vector<T> x, refs;
  std::vector<int64_t> first;   // [entries]; empty: entry e is of row e
  std::vector<int64_t> second;  // [entries, partners]
  std::vector<T> gradient;      // [entries, partners]
  bool every_row;

  // Partners are among `ref_count` refs, or among the rows themselves if `ref_count` is negative.
  Problem(Values values, int64_t count, int64_t ref_count, int64_t depth, Random& random, Listing listing = kSelection)
      : count(count), ref_count(ref_count), depth(depth), partners(listing.partners), every_row(listing.every_row) {
    x = make_rows<T>(values, count, depth, random);
    if (has_refs()) refs = make_rows<T>(values, ref_count, depth, random);
    const int64_t entries = every_row ? count : count == 0 ? 0 : listing.entries;
    for (int64_t e = 0; e < entries; ++e) {
      if (!every_row) first.push_back(random.below(count));
      for (int64_t k = 0; k < partners; ++k) {
        // One pair in six is missing, and one gradient in six is zero.
        const bool none = choices() == 0 || random.below(6) == 0;
        second.push_back(none ? -1 : random.below(choices()));
        const T g = values == Values::kReals ? T(2 * random.unit() - 1) : T(random.below(7) - 3);
        gradient.push_back(none ? T(kNaN) : random.below(6) == 0 ? T(0) : g);
      }
    }
  }
  bool has_refs() const { return ref_count >= 0; }
  int64_t choices() const { return has_refs() ? ref_count : count; }
  const std::vector<T>& other() const { return has_refs() ? refs : x; }
  int64_t pairs() const { return static_cast<int64_t>(second.size()); }
  int64_t first_of(int64_t pair) const { return every_row ? pair / partners : first[pair / partners]; }
};

template <class T>
struct Gradients {
  std::vector<T> x, refs;
};

template <class T>
Gradients<T> engine(const PairMeasure& measure, const Problem<T>& p, const cpu::ThreadPool& pool, bool want_x = true,
                    bool want_refs = true) {
  // Outputs start as NaN, which shows elements that are not written.
  Gradients<T> grad{std::vector<T>(want_x ? p.x.size() : 0, T(kNaN)),
                    std::vector<T>(want_refs ? p.refs.size() : 0, T(kNaN))};
  // An empty gallery is still a gallery. Only a null pointer means that there is none.
  const T empty[1] = {};
  const T* refs = !p.has_refs() ? nullptr : p.refs.empty() ? empty : p.refs.data();
  const int64_t entries = p.partners ? p.pairs() / p.partners : p.count;
  const int64_t nobody[1] = {};
  const int64_t* first = p.every_row ? nullptr : p.first.empty() ? nobody : p.first.data();
  cpu::pair_gradient<T>(measure, {p.x.data(), p.count, refs, p.has_refs() ? p.ref_count : 0, p.depth},
                        {first, p.second.data(), p.gradient.data(), entries, p.partners}, pool,
                        want_x ? grad.x.data() : nullptr, want_refs && p.has_refs() ? grad.refs.data() : nullptr);
  return grad;
}

double norm_of(const std::vector<double>& v) {
  double squares = 0;
  for (const double value : v) squares += value * value;
  return std::sqrt(squares);
}

// d measure(a, b) / d a, dense.
std::vector<double> slope(const PairMeasure& measure, std::vector<double> a, std::vector<double> b) {
  const size_t depth = a.size();
  const double eps = 1e-12, length = norm_of(a);
  if (measure.normalized && length <= eps) return std::vector<double>(depth, 0);  // no direction, so no gradient
  const double scale = measure.normalized ? length : 1;
  const double other_scale = measure.normalized ? std::fmax(norm_of(b), eps) : 1;
  std::vector<double> difference(depth), out(depth, 0);
  for (size_t k = 0; k < depth; ++k) difference[k] = (b[k] /= other_scale) - (a[k] /= scale);
  const double d = norm_of(difference);
  for (size_t k = 0; k < depth; ++k) {
    if (measure.quantity == PairQuantity::kInnerProduct) out[k] = b[k];
    if (measure.quantity == PairQuantity::kNegativeDistance) out[k] = d == 0 ? 0 : difference[k] / d;
    if (measure.quantity == PairQuantity::kNegativeSquaredDistance) out[k] = 2 * difference[k];
  }
  if (!measure.normalized) return out;
  // u = a / |a|: du/da = (I - u u^T) / |a|.
  double along = 0;
  for (size_t k = 0; k < depth; ++k) along += out[k] * a[k];
  for (size_t k = 0; k < depth; ++k) out[k] = (out[k] - along * a[k]) / scale;
  return out;
}

template <class T>
void check_against_scatter(const PairMeasure& measure, const Problem<T>& p) {
  const auto row = [&](const std::vector<T>& rows, int64_t i) {
    return std::vector<double>(rows.begin() + i * p.depth, rows.begin() + (i + 1) * p.depth);
  };
  // Sums of magnitudes accompany the sums, because rounding errors are relative to them.
  std::vector<double> x(p.x.size()), refs(p.refs.size()), x_size(p.x.size()), refs_size(p.refs.size());
  for (int64_t pair = 0; pair < p.pairs(); ++pair) {
    const int64_t i = p.first_of(pair), j = p.second[pair];
    if (j < 0 || p.gradient[pair] == T(0)) continue;
    const double g = p.gradient[pair];
    const std::vector<double> a = row(p.x, i), b = row(p.other(), j);
    const std::vector<double> to_a = slope(measure, a, b), to_b = slope(measure, b, a);
    // The difference of two nearly equal unit rows loses digits. Dividing by their distance magnifies the error.
    double gap = 1;
    if (measure.normalized && measure.quantity == PairQuantity::kNegativeDistance) {
      double squares = 0;
      const double a_norm = std::fmax(norm_of(a), 1e-12), b_norm = std::fmax(norm_of(b), 1e-12);
      for (int64_t k = 0; k < p.depth; ++k)
        squares += (a[k] / a_norm - b[k] / b_norm) * (a[k] / a_norm - b[k] / b_norm);
      gap = std::fmin(1, std::sqrt(squares));
      if (gap == 0) continue;
    }
    const double size = measure.normalized ? (measure.quantity == PairQuantity::kInnerProduct ? 1 : 4 / gap)
                        : measure.quantity == PairQuantity::kNegativeDistance ? 1
                        : measure.quantity == PairQuantity::kInnerProduct     ? 2
                                                                              : 8;
    const double a_scale = measure.normalized ? 1 / std::fmax(norm_of(a), 1e-12) : 1;
    const double b_scale = measure.normalized ? 1 / std::fmax(norm_of(b), 1e-12) : 1;
    for (int64_t k = 0; k < p.depth; ++k) {
      x[i * p.depth + k] += g * to_a[k];
      (p.has_refs() ? refs : x)[j * p.depth + k] += g * to_b[k];
      x_size[i * p.depth + k] += std::fabs(g) * size * a_scale;
      (p.has_refs() ? refs_size : x_size)[j * p.depth + k] += std::fabs(g) * size * b_scale;
    }
  }
  const Gradients<T> got = engine(measure, p, SerialPool());
  const double eps = 16 * std::numeric_limits<T>::epsilon();
  for (size_t e = 0; e < x.size(); ++e) CHECK_NEAR(got.x[e], x[e], eps * x_size[e]);
  for (size_t e = 0; e < refs.size(); ++e) CHECK_NEAR(got.refs[e], refs[e], eps * refs_size[e]);
}

// Every anchor, itself included, has the same row as positive and as negative.
template <class T>
Problem<T> hub(int64_t count, int64_t depth, Values values) {
  Random random(count);
  Problem<T> p(values, count, -1, depth, random);
  for (int64_t pair = 0; pair < p.pairs(); ++pair) {
    p.second[pair] = count / 2;
    if (std::isnan(p.gradient[pair])) p.gradient[pair] = T(1);
  }
  return p;
}

}  // namespace

TEST(pair_gradient_with_forced_target_runs_on_it) { check_forced_target(); }

TYPED_TEST(pair_gradient_any_shape_matches_dense_scatter, T) {
  for (const int64_t count : {0, 1, 2, 3, 17, 97, 257}) {
    for (const int64_t ref_count : {-1, 0, 1, 5, 98, 257}) {
      for (const int64_t depth : kDepths) {
        if (std::max(count, ref_count) > 50 && depth > 20 && depth != 257) continue;
        if (std::max(count, ref_count) > 100 && depth > 17) continue;
        for (const PairMeasure& measure : kMeasures) {
          for (const Values values : {Values::kIntegers, Values::kReals}) {  // integers: coinciding rows, zero rows
            Random random(count * 1000 + depth);
            context = "rows " + std::to_string(count) + ", refs " + std::to_string(ref_count) + ", depth " +
                      std::to_string(depth) + ", " + text_of(measure) + ", values " + name_of(values);
            check_against_scatter(measure, Problem<T>(values, count, ref_count, depth, random));
          }
        }
      }
    }
  }
}

TEST(pair_gradient_small_batch_has_no_parallel_region) {
  for (const int64_t count : {128, 512, 2048}) {
    context = std::to_string(count) + " x 512";
    Random random(count);
    const Problem<float> problem(Values::kReals, count, -1, 512, random);
    const CountingPool pool;
    engine(kMeasures[0], problem, pool);
    CHECK_EQ(pool.regions() > 0, count > 512);
  }
}

TYPED_TEST(pair_gradient_any_listing_matches_dense_scatter, T) {
  for (const Listing& listing : {Listing{true, 0, 0}, Listing{true, 0, 1}, Listing{true, 0, 7}, Listing{false, 0, 2},
                                 Listing{false, 1, 1}, Listing{false, 9, 3}, Listing{false, 200, 2}}) {
    for (const int64_t ref_count : {-1, 0, 13}) {
      for (const PairMeasure& measure : kMeasures) {
        context = std::to_string(listing.every_row ? -1 : listing.entries) + " entries of " +
                  std::to_string(listing.partners) + ", refs " + std::to_string(ref_count) + ", " + text_of(measure);
        Random random(listing.entries + 31);
        check_against_scatter(measure, Problem<T>(Values::kReals, 23, ref_count, 17, random, listing));
      }
    }
  }
}

TEST(pair_gradient_fewer_entries_than_rows_match_dense_scatter) {
  Random random(3);
  Problem<double> p(Values::kReals, 23, -1, 17, random);
  for (const int64_t entries : {22, 5, 0}) {
    p.second.resize(2 * entries), p.second.shrink_to_fit();
    p.gradient.resize(2 * entries), p.gradient.shrink_to_fit();
    for (const PairMeasure& measure : kMeasures) check_against_scatter(measure, p);
  }
}

TEST(pair_gradient_integer_inner_products_are_exact) {
  Random random(9);
  const Problem<float> p(Values::kIntegers, 97, 31, 33, random);
  std::vector<float> x(p.x.size(), 0), refs(p.refs.size(), 0);
  for (int64_t pair = 0; pair < p.pairs(); ++pair) {
    const int64_t i = p.first_of(pair), j = p.second[pair];
    for (int64_t k = 0; k < p.depth && j >= 0; ++k) {
      x[i * p.depth + k] += p.gradient[pair] * p.refs[j * p.depth + k];
      refs[j * p.depth + k] += p.gradient[pair] * p.x[i * p.depth + k];
    }
  }
  const Gradients<float> got = engine(kDot, p, SerialPool());
  for (size_t e = 0; e < x.size(); ++e) CHECK_EQ(got.x[e], x[e]);
  for (size_t e = 0; e < refs.size(); ++e) CHECK_EQ(got.refs[e], refs[e]);
}

TEST(pair_gradient_matches_finite_differences) {
  const auto value = [](const PairMeasure& measure, const Problem<double>& p) {
    double sum = 0;
    for (int64_t pair = 0; pair < p.pairs(); ++pair) {
      if (p.second[pair] < 0) continue;
      const double *a = p.x.data() + p.first_of(pair) * p.depth, *b = p.other().data() + p.second[pair] * p.depth;
      double ab = 0, aa = 0, bb = 0;
      for (int64_t k = 0; k < p.depth; ++k) ab += a[k] * b[k], aa += a[k] * a[k], bb += b[k] * b[k];
      if (measure.normalized) ab /= std::sqrt(aa * bb), aa = bb = 1;
      const double squared = std::fmax(aa + bb - 2 * ab, 0);
      sum += p.gradient[pair] * (measure.quantity == PairQuantity::kInnerProduct       ? ab
                                 : measure.quantity == PairQuantity::kNegativeDistance ? -std::sqrt(squared)
                                                                                       : -squared);
    }
    return sum;
  };
  for (const int64_t ref_count : {-1, 7}) {
    Random random(12);
    Problem<double> p(Values::kReals, 9, ref_count, 5, random);
    for (int64_t pair = 0; pair < p.pairs(); ++pair) {
      // A row paired with itself has no derivative of its distance.
      if (ref_count < 0 && p.second[pair] == p.first_of(pair)) p.second[pair] = (p.second[pair] + 1) % 9;
      if (std::isnan(p.gradient[pair])) p.gradient[pair] = 0.5;
    }
    for (const PairMeasure& measure : kMeasures) {
      context = "refs " + std::to_string(ref_count) + ", " + text_of(measure);
      const Gradients<double> got = engine(measure, p, SerialPool());
      const auto check = [&](std::vector<double>& input, const std::vector<double>& grad) {
        for (size_t e = 0; e < input.size(); ++e) {
          const double at = input[e], step = 1e-6;
          input[e] = at + step;
          const double up = value(measure, p);
          input[e] = at - step;
          const double down = value(measure, p);
          input[e] = at;
          CHECK_NEAR(grad[e], (up - down) / (2 * step), 1e-7);
        }
      };
      check(p.x, got.x);
      check(p.refs, got.refs);
    }
  }
}

TEST(pair_gradient_hub_gathers_from_all_rows) {
  for (const PairMeasure& measure : kMeasures) {
    context = text_of(measure);
    check_against_scatter(measure, hub<float>(257, 17, Values::kReals));
    check_against_scatter(measure, hub<double>(97, 3, Values::kIntegers));
  }
}

// Zero rows, equal rows, and a row below the minimum norm, whose gradient is 0.
TYPED_TEST(pair_gradient_zero_rows_and_distances_match_dense_scatter, T) {
  Random random(1);
  const int64_t depth = 9;
  Problem<T> p(Values::kReals, 7, -1, depth, random);
  for (int64_t k = 0; k < depth; ++k) {
    p.x[0 * depth + k] = p.x[5 * depth + k] = T(0);
    p.x[2 * depth + k] = p.x[1 * depth + k];
    p.x[6 * depth + k] = T(2e-13);
  }
  p.second = {1, 5, 2, 3, 1, 0, 6, 3, 4, -1, 0, 4, 3, 4};
  p.gradient = {1, 1, 2, T(-0.5), -1, 2, T(0.5), 1, 3, 1, 1, 1, 2, -1};
  for (const PairMeasure& measure : kMeasures) {
    context = "zeros, " + text_of(measure);
    check_against_scatter(measure, p);
  }
}

// A non-finite row has no effect unless a gradient reaches one of its pairs.
TYPED_TEST(pair_gradient_unused_nonfinite_row_stays_zero, T) {
  Random random(2);
  Problem<T> p(Values::kReals, 5, -1, 17, random);
  for (int64_t k = 0; k < 17; ++k) p.x[3 * 17 + k] = T(kNaN);
  p.second = {1, 2, 0, 4, 3, 1, 2, -1, -1, 0};
  p.gradient = {1, 1, 1, 1, 0, 1, 0, T(kNaN), T(kNaN), 1};
  for (const PairMeasure& measure : kMeasures) {
    context = "unused, " + text_of(measure);
    const Gradients<T> got = engine(measure, p, SerialPool());
    for (int64_t i = 0; i < 5; ++i)
      for (int64_t k = 0; k < 17; ++k) CHECK(i == 3 ? got.x[i * 17 + k] == T(0) : std::isfinite(got.x[i * 17 + k]));
    Problem<T> used = p;
    used.gradient[2 * 2] = T(1);
    const Gradients<T> propagate_nan = engine(measure, used, SerialPool());
    CHECK(std::isnan(propagate_nan.x[2 * 17]) && std::isfinite(propagate_nan.x[0]));
    // For an inner product, the gradient of the row itself is its partner, which is finite.
    const bool dot = measure.quantity == PairQuantity::kInnerProduct && !measure.normalized;
    CHECK_EQ(std::isnan(propagate_nan.x[3 * 17]), !dot);
  }
}

TEST(pair_gradient_null_output_changes_nothing) {
  Random random(4);
  const Problem<float> p(Values::kReals, 33, 20, 17, random), without_refs(Values::kReals, 33, -1, 17, random);
  for (const PairMeasure& measure : kMeasures) {
    context = text_of(measure);
    const Gradients<float> both = engine(measure, p, SerialPool());
    CHECK(same_bits(engine(measure, p, SerialPool(), true, false).x, both.x));
    CHECK(same_bits(engine(measure, p, SerialPool(), false, true).refs, both.refs));
    engine(measure, p, SerialPool(), false, false);
    engine(measure, without_refs, SerialPool(), false, false);
  }
}

TYPED_TEST(pair_gradient_any_threads_give_same_bits, T) {
  const int64_t count = 300, depth = 257;  // enough work for eight threads
  Random random(7);
  const Problem<T> problems[] = {
      Problem<T>(Values::kReals, count, -1, depth, random), Problem<T>(Values::kReals, count, 251, depth, random),
      Problem<T>(Values::kReals, count, -1, depth, random, Listing{false, 500, 2}),
      Problem<T>(Values::kReals, count, 251, depth, random, Listing{true, 0, 9}), hub<T>(count, depth, Values::kReals)};
  for (const Problem<T>& p : problems) {
    for (const PairMeasure& measure : kMeasures) {
      const Gradients<T> serial = engine(measure, p, SerialPool());
      for (const auto& pool : parallel_pools()) {
        context = std::to_string(pool->count()) + " threads, refs " + std::to_string(p.ref_count);
        const Gradients<T> parallel = engine(measure, p, *pool);
        CHECK(same_bits(parallel.x, serial.x));
        CHECK(same_bits(parallel.refs, serial.refs));
        CHECK(cpu::all_finite(p.x.data(), count, depth, *pool));
      }
    }
  }
}

TYPED_TEST(all_finite_nonfinite_element_is_found, T) {
  const SerialPool serial;
  const ThreadedPool threads(3);
  const int64_t count = 200, depth = 257;
  std::vector<T> x(count * depth, T(1));
  for (const int64_t at : {int64_t{0}, int64_t{256}, int64_t{257 * 99 + 16}, count * depth - 1}) {
    for (const cpu::ThreadPool* pool :
         {static_cast<const cpu::ThreadPool*>(&serial), static_cast<const cpu::ThreadPool*>(&threads)}) {
      context = "element " + std::to_string(at);
      for (const double bad : {kNaN, double(INFINITY), -double(INFINITY)}) {
        x[at] = T(bad);
        CHECK(!cpu::all_finite(x.data(), count, depth, *pool));
      }
      x[at] = std::numeric_limits<T>::max();  // its square and so the norm overflow
      CHECK(!cpu::all_finite(x.data(), count, depth, *pool));
      x[at] = T(1);
    }
  }
  CHECK(cpu::all_finite(static_cast<const T*>(nullptr), 0, 5, serial));
}
