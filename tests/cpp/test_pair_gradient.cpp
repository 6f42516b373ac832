// The gather of pair gradients against a scatter over dense matrices in double, and against finite differences.

#include "../../csrc/cpu/pair_gradient.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "check.h"
#include "levels.h"
#include "pools.h"
#include "samples.h"

using namespace hardmine;
using namespace hardmine::test;

namespace {

constexpr Similarity kSimilarities[] = {Similarity::kCosine, Similarity::kDot, Similarity::kEuclidean};
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <class T>
struct Problem {
  int64_t count, ref_count, depth;
  std::vector<T> x, refs;
  std::vector<int64_t> index[2];  // positive, negative
  std::vector<T> gradient[2];

  // Partners among `ref_count` refs or, where that is negative, among the rows themselves.
  Problem(Values values, int64_t count, int64_t ref_count, int64_t depth, Random& random)
      : count(count), ref_count(ref_count), depth(depth), x(make_rows<T>(values, count, depth, random)) {
    if (has_refs()) refs = make_rows<T>(values, ref_count, depth, random);
    for (int side = 0; side < 2; ++side) {
      for (int64_t i = 0; i < count; ++i) {
        // One anchor in six has no partner, and one gradient in six is zero.
        const bool none = partners() == 0 || random.below(6) == 0;
        index[side].push_back(none ? -1 : random.below(partners()));
        const T g = values == Values::kReals ? T(2 * random.unit() - 1) : T(random.below(7) - 3);
        gradient[side].push_back(none ? T(kNaN) : random.below(6) == 0 ? T(0) : g);
      }
    }
  }
  bool has_refs() const { return ref_count >= 0; }
  int64_t partners() const { return has_refs() ? ref_count : count; }
  const std::vector<T>& other() const { return has_refs() ? refs : x; }
};

template <class T>
struct Gradients {
  std::vector<T> x, refs;
};

template <class T>
Gradients<T> engine(Similarity similarity, const Problem<T>& p, const cpu::Workers& workers, bool want_x = true,
                    bool want_refs = true) {
  // Outputs hold garbage at first: every element must be written.
  Gradients<T> grad{std::vector<T>(want_x ? p.x.size() : 0, T(kNaN)),
                    std::vector<T>(want_refs ? p.refs.size() : 0, T(kNaN))};
  // An empty gallery is still a gallery: only a null pointer means that there is none.
  const T empty[1] = {};
  const T* refs = !p.has_refs() ? nullptr : p.refs.empty() ? empty : p.refs.data();
  cpu::pair_gradient<T>(similarity, p.x.data(), p.count, refs, p.has_refs() ? p.ref_count : 0, p.depth,
                        {p.index[0].data(), p.gradient[0].data()}, {p.index[1].data(), p.gradient[1].data()}, workers,
                        want_x ? grad.x.data() : nullptr, want_refs && p.has_refs() ? grad.refs.data() : nullptr);
  return grad;
}

// d s(a, b) / d a, dense.
std::vector<double> slope(Similarity similarity, const std::vector<double>& a, const std::vector<double>& b) {
  const size_t depth = a.size();
  std::vector<double> out(depth, 0);
  const auto norm = [](const std::vector<double>& v) {
    double squares = 0;
    for (const double value : v) squares += value * value;
    return std::sqrt(squares);
  };
  if (similarity == Similarity::kDot) return b;
  if (similarity == Similarity::kEuclidean) {
    std::vector<double> difference(depth);
    for (size_t k = 0; k < depth; ++k) difference[k] = b[k] - a[k];
    const double d = norm(difference);
    for (size_t k = 0; k < depth; ++k) out[k] = d == 0 ? 0 : difference[k] / d;
    return out;
  }
  // u = a / max(|a|, eps): du/da = (I - u u^T) / |a|, or I / eps below eps.
  const double eps = 1e-12, length = norm(a), other_length = std::fmax(norm(b), eps);
  double along = 0;
  for (size_t k = 0; k < depth; ++k) along += length > eps ? a[k] / length * (b[k] / other_length) : 0;
  for (size_t k = 0; k < depth; ++k)
    out[k] = (b[k] / other_length - (length > eps ? along * a[k] / length : 0)) / std::fmax(length, eps);
  return out;
}

template <class T>
void check_against_scatter(Similarity similarity, const Problem<T>& p) {
  const auto row = [&](const std::vector<T>& rows, int64_t i) {
    return std::vector<double>(rows.begin() + i * p.depth, rows.begin() + (i + 1) * p.depth);
  };
  // The sum of the magnitudes beside the sum itself: rounding errors are relative to it.
  std::vector<double> x(p.x.size()), refs(p.refs.size()), x_size(p.x.size()), refs_size(p.refs.size());
  for (int side = 0; side < 2; ++side) {
    for (int64_t i = 0; i < p.count; ++i) {
      const int64_t j = p.index[side][i];
      if (j < 0 || p.gradient[side][i] == T(0)) continue;
      const double g = p.gradient[side][i];
      const std::vector<double> a = row(p.x, i), b = row(p.other(), j);
      const std::vector<double> to_a = slope(similarity, a, b), to_b = slope(similarity, b, a);
      for (int64_t k = 0; k < p.depth; ++k) {
        x[i * p.depth + k] += g * to_a[k];
        (p.has_refs() ? refs : x)[j * p.depth + k] += g * to_b[k];
        double scale_a = 1, scale_b = 1;
        if (similarity == Similarity::kCosine) {
          const auto inverse_norm = [](const std::vector<double>& v) {
            double squares = 0;
            for (const double value : v) squares += value * value;
            return 1 / std::fmax(std::sqrt(squares), 1e-12);
          };
          scale_a = inverse_norm(a);
          scale_b = inverse_norm(b);
        } else if (similarity == Similarity::kDot) {
          scale_a = scale_b = 2;
        }
        x_size[i * p.depth + k] += std::fabs(g) * scale_a;
        (p.has_refs() ? refs_size : x_size)[j * p.depth + k] += std::fabs(g) * scale_b;
      }
    }
  }
  const Gradients<T> got = engine(similarity, p, SerialWorkers());
  const double eps = 16 * std::numeric_limits<T>::epsilon();
  for (size_t e = 0; e < x.size(); ++e) CHECK_NEAR(got.x[e], x[e], eps * x_size[e]);
  for (size_t e = 0; e < refs.size(); ++e) CHECK_NEAR(got.refs[e], refs[e], eps * refs_size[e]);
}

template <class T>
void check_shapes() {
  for (const int64_t count : {0, 1, 2, 3, 17, 97, 257}) {
    for (const int64_t ref_count : {-1, 0, 1, 5, 98, 257}) {
      for (const int64_t depth : kDepths) {
        if (std::max(count, ref_count) > 50 && depth > 20 && depth != 257) continue;
        if (std::max(count, ref_count) > 100 && depth > 17) continue;
        for (const Similarity similarity : kSimilarities) {
          for (const Values values : {Values::kIntegers, Values::kReals}) {  // integers: coinciding rows, zero rows
            Random random(count * 1000 + depth);
            context = "rows " + std::to_string(count) + ", refs " + std::to_string(ref_count) + ", depth " +
                      std::to_string(depth) + ", similarity " + std::to_string(static_cast<int>(similarity)) +
                      ", values " + std::to_string(static_cast<int>(values));
            check_against_scatter(similarity, Problem<T>(values, count, ref_count, depth, random));
          }
        }
      }
    }
  }
}

// One row that every anchor selected, as positive and as negative, itself included.
template <class T>
Problem<T> hub(int64_t count, int64_t depth, Values values) {
  Random random(count);
  Problem<T> p(values, count, -1, depth, random);
  for (int side = 0; side < 2; ++side) {
    for (int64_t i = 0; i < count; ++i) {
      p.index[side][i] = count / 2;
      if (std::isnan(p.gradient[side][i])) p.gradient[side][i] = T(1);
    }
  }
  return p;
}

// Zero rows, coinciding rows, and one shorter than the smallest norm, below which a row is not projected.
template <class T>
void check_zeros() {
  Random random(1);
  const int64_t depth = 9;
  Problem<T> p(Values::kReals, 7, -1, depth, random);
  for (int64_t k = 0; k < depth; ++k) {
    p.x[0 * depth + k] = p.x[5 * depth + k] = T(0);
    p.x[2 * depth + k] = p.x[1 * depth + k];
    p.x[6 * depth + k] = T(2e-13);
  }
  p.index[0] = {1, 2, 1, 6, 4, 0, 3};
  p.index[1] = {5, 3, 0, 3, -1, 4, 4};
  p.gradient[0] = {1, 2, -1, T(0.5), 3, 1, 2};
  p.gradient[1] = {1, T(-0.5), 2, 1, 1, 1, -1};
  for (const Similarity similarity : kSimilarities) {
    context = "zeros, similarity " + std::to_string(static_cast<int>(similarity));
    check_against_scatter(similarity, p);
  }
}

// A non-finite row matters to nobody unless a gradient reaches its pairs.
template <class T>
void check_unused_rows() {
  Random random(2);
  Problem<T> p(Values::kReals, 5, -1, 17, random);
  for (int64_t k = 0; k < 17; ++k) p.x[3 * 17 + k] = T(kNaN);
  p.index[0] = {1, 0, 3, 2, -1};
  p.index[1] = {2, 4, 1, -1, 0};
  p.gradient[0] = {1, 1, 0, 0, T(kNaN)};
  p.gradient[1] = {1, 1, 1, T(kNaN), 1};
  for (const Similarity similarity : kSimilarities) {
    context = "unused, similarity " + std::to_string(static_cast<int>(similarity));
    const Gradients<T> got = engine(similarity, p, SerialWorkers());
    for (int64_t i = 0; i < 5; ++i)
      for (int64_t k = 0; k < 17; ++k) CHECK(i == 3 ? got.x[i * 17 + k] == T(0) : std::isfinite(got.x[i * 17 + k]));
    Problem<T> used = p;
    used.gradient[0][2] = T(1);
    const Gradients<T> poisoned = engine(similarity, used, SerialWorkers());
    CHECK(std::isnan(poisoned.x[2 * 17]) && std::isfinite(poisoned.x[0]));
    // What an inner product passes to the row itself is only its partner, which is finite.
    CHECK_EQ(std::isnan(poisoned.x[3 * 17]), similarity != Similarity::kDot);
  }
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
void check_workers() {
  const int64_t count = 300, depth = 257;  // enough for eight workers
  Random random(7);
  const Problem<T> problems[] = {Problem<T>(Values::kReals, count, -1, depth, random),
                                 Problem<T>(Values::kReals, count, 251, depth, random),
                                 hub<T>(count, depth, Values::kReals)};
  for (const Problem<T>& p : problems) {
    for (const Similarity similarity : kSimilarities) {
      const Gradients<T> serial = engine(similarity, p, SerialWorkers());
      for (const auto& pool : parallel_pools()) {
        context = std::to_string(pool->count()) + " workers, refs " + std::to_string(p.ref_count);
        const Gradients<T> parallel = engine(similarity, p, *pool);
        CHECK(same_bits(parallel.x, serial.x));
        CHECK(same_bits(parallel.refs, serial.refs));
        CHECK(cpu::all_finite(p.x.data(), count, depth, *pool));
      }
    }
  }
}

template <class T>
void check_all_finite() {
  const SerialWorkers serial;
  const ThreadWorkers threads(3);
  const int64_t count = 200, depth = 257;
  std::vector<T> x(count * depth, T(1));
  for (const int64_t at : {int64_t{0}, int64_t{256}, int64_t{257 * 99 + 16}, count * depth - 1}) {
    for (const cpu::Workers* workers :
         {static_cast<const cpu::Workers*>(&serial), static_cast<const cpu::Workers*>(&threads)}) {
      context = "element " + std::to_string(at);
      for (const double bad : {kNaN, double(INFINITY), -double(INFINITY)}) {
        x[at] = T(bad);
        CHECK(!cpu::all_finite(x.data(), count, depth, *workers));
      }
      x[at] = std::numeric_limits<T>::max();  // its square, and so the norm, overflows
      CHECK(!cpu::all_finite(x.data(), count, depth, *workers));
      x[at] = T(1);
    }
  }
  CHECK(cpu::all_finite(static_cast<const T*>(nullptr), 0, 5, serial));
}

}  // namespace

TEST(runs_at_the_forced_level) { check_forced_level(); }

TEST(every_shape_matches_a_dense_scatter) {
  check_shapes<float>();
  check_shapes<double>();
}

TEST(inner_products_of_integers_are_exact) {
  Random random(9);
  const Problem<float> p(Values::kIntegers, 97, 31, 33, random);
  std::vector<float> x(p.x.size(), 0), refs(p.refs.size(), 0);
  for (int side = 0; side < 2; ++side) {
    for (int64_t i = 0; i < p.count; ++i) {
      for (int64_t k = 0; k < p.depth && p.index[side][i] >= 0; ++k) {
        x[i * p.depth + k] += p.gradient[side][i] * p.refs[p.index[side][i] * p.depth + k];
        refs[p.index[side][i] * p.depth + k] += p.gradient[side][i] * p.x[i * p.depth + k];
      }
    }
  }
  const Gradients<float> got = engine(Similarity::kDot, p, SerialWorkers());
  for (size_t e = 0; e < x.size(); ++e) CHECK_EQ(got.x[e], x[e]);
  for (size_t e = 0; e < refs.size(); ++e) CHECK_EQ(got.refs[e], refs[e]);
}

TEST(finite_differences_of_the_weighted_similarities) {
  const auto value = [](Similarity similarity, const Problem<double>& p) {
    double sum = 0;
    for (int side = 0; side < 2; ++side) {
      for (int64_t i = 0; i < p.count; ++i) {
        if (p.index[side][i] < 0) continue;
        const double *a = p.x.data() + i * p.depth, *b = p.other().data() + p.index[side][i] * p.depth;
        double ab = 0, aa = 0, bb = 0;
        for (int64_t k = 0; k < p.depth; ++k) ab += a[k] * b[k], aa += a[k] * a[k], bb += b[k] * b[k];
        const double s = similarity == Similarity::kDot      ? ab
                         : similarity == Similarity::kCosine ? ab / std::sqrt(aa * bb)
                                                             : -std::sqrt(std::fmax(aa + bb - 2 * ab, 0));
        sum += p.gradient[side][i] * s;
      }
    }
    return sum;
  };
  for (const int64_t ref_count : {-1, 7}) {
    Random random(12);
    Problem<double> p(Values::kReals, 9, ref_count, 5, random);
    for (int64_t i = 0; i < 9; ++i)  // a row paired with itself has no Euclidean derivative
      for (std::vector<int64_t>& index : p.index)
        if (ref_count < 0 && index[i] == i) index[i] = (i + 1) % 9;
    for (int side = 0; side < 2; ++side)
      for (double& g : p.gradient[side])
        if (std::isnan(g)) g = 0.5;
    for (const Similarity similarity : kSimilarities) {
      context = "refs " + std::to_string(ref_count) + ", similarity " + std::to_string(static_cast<int>(similarity));
      const Gradients<double> got = engine(similarity, p, SerialWorkers());
      const auto check = [&](std::vector<double>& input, const std::vector<double>& grad) {
        for (size_t e = 0; e < input.size(); ++e) {
          const double at = input[e], step = 1e-6;
          input[e] = at + step;
          const double up = value(similarity, p);
          input[e] = at - step;
          const double down = value(similarity, p);
          input[e] = at;
          CHECK_NEAR(grad[e], (up - down) / (2 * step), 1e-7);
        }
      };
      check(p.x, got.x);
      check(p.refs, got.refs);
    }
  }
}

TEST(hubs_gather_from_everybody) {
  for (const Similarity similarity : kSimilarities) {
    context = "similarity " + std::to_string(static_cast<int>(similarity));
    check_against_scatter(similarity, hub<float>(257, 17, Values::kReals));
    check_against_scatter(similarity, hub<double>(97, 3, Values::kIntegers));
  }
}

TEST(zero_rows_and_zero_distances) {
  check_zeros<float>();
  check_zeros<double>();
}

TEST(rows_that_no_gradient_reaches_stay_zero) {
  check_unused_rows<float>();
  check_unused_rows<double>();
}

TEST(null_outputs_are_not_computed_and_change_nothing) {
  Random random(4);
  const Problem<float> p(Values::kReals, 33, 20, 17, random), without_refs(Values::kReals, 33, -1, 17, random);
  for (const Similarity similarity : kSimilarities) {
    const Gradients<float> both = engine(similarity, p, SerialWorkers());
    CHECK(same_bits(engine(similarity, p, SerialWorkers(), true, false).x, both.x));
    CHECK(same_bits(engine(similarity, p, SerialWorkers(), false, true).refs, both.refs));
    engine(similarity, p, SerialWorkers(), false, false);
    engine(similarity, without_refs, SerialWorkers(), false, false);
  }
}

TEST(any_workers_give_the_same_bits) {
  check_workers<float>();
  check_workers<double>();
}

TEST(all_finite_finds_every_non_finite_element) {
  check_all_finite<float>();
  check_all_finite<double>();
}
