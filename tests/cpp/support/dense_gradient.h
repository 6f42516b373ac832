// The gradient of a function of all pairs' measures, from the derivatives with respect to the measures, in plain sums.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/similarity.h"
#include "support/check.h"
#include "support/samples.h"

namespace hardmine::test {

// Rows as a measure uses them, in double.
template <class T>
struct MeasuredSide {
  int64_t count, depth;
  std::vector<double> x;      // [count, depth]
  std::vector<double> scale;  // what they were divided by
  bool normalized;

  MeasuredSide(const PairMeasure& measure, const Batch<T>& batch)
      : count(batch.count), depth(batch.depth), x(batch.x.begin(), batch.x.end()), normalized(measure.normalized) {
    for (int64_t i = 0; i < count; ++i) {
      double squares = 0;
      for (int64_t k = 0; k < depth; ++k) squares += row(i)[k] * row(i)[k];
      scale.push_back(normalized ? std::fmax(std::sqrt(squares), 1e-12) : 1);
      for (int64_t k = 0; k < depth; ++k) x[i * depth + k] /= scale[i];
    }
  }
  const double* row(int64_t i) const { return x.data() + i * depth; }
};

// Moves the rows into the Poincare ball: [x, gap] with the gap as last element, as core/hyperbolic.h has them.
template <class T>
void move_into_ball(Batch<T>& batch) {
  for (int64_t i = 0; i < batch.count; ++i) {
    T* row = batch.row(i);
    double squares = 0;
    for (int64_t k = 0; k + 1 < batch.depth; ++k) squares += double(row[k]) * row[k];
    const double radius = std::sqrt(squares) / (1 + std::sqrt(squares));
    for (int64_t k = 0; k + 1 < batch.depth; ++k) row[k] = T(row[k] / (1 + std::sqrt(squares)));
    row[batch.depth - 1] = T(1 - radius * radius);
  }
}

// The squared distance of two rows, without their gaps if the measure is hyperbolic.
inline double squared_distance(const PairMeasure& measure, const double* a, const double* b, int64_t depth) {
  double sum = 0;
  for (int64_t k = 0; k < depth - (is_hyperbolic(measure) ? 1 : 0); ++k) sum += (a[k] - b[k]) * (a[k] - b[k]);
  return sum;
}

// arcosh(1 + score), and its derivative by the squared distance times 2, as in core/hyperbolic.h.
struct Hyperbolic {
  double distance, slope;

  Hyperbolic(double sq_dist, double gap_a, double gap_b) {
    const double u = std::sqrt(sq_dist / (gap_a * gap_b));  // arcosh(1 + 2 u^2) = 2 arsinh(u)
    distance = 2 * std::asinh(u);
    slope = 4 / (gap_a * gap_b * std::sinh(distance));
  }
};

// [rows, columns]
template <class T>
std::vector<double> measure_matrix(const PairMeasure& measure, const MeasuredSide<T>& rows,
                                   const MeasuredSide<T>& columns) {
  std::vector<double> s(rows.count * columns.count);
  for (int64_t i = 0; i < rows.count; ++i) {
    for (int64_t j = 0; j < columns.count; ++j) {
      const double *a = rows.row(i), *b = columns.row(j);
      const double sq_dist = squared_distance(measure, a, b, rows.depth);
      double& value = s[i * columns.count + j];
      switch (measure.quantity) {
        case PairQuantity::kInnerProduct:
          for (int64_t k = 0; k < rows.depth; ++k) value += a[k] * b[k];
          break;
        case PairQuantity::kNegativeDistance:
          value = -std::sqrt(sq_dist);
          break;
        case PairQuantity::kNegativeSquaredDistance:
          value = -sq_dist;
          break;
        case PairQuantity::kNegativeHyperbolicDistance:
          value = -Hyperbolic(sq_dist, a[rows.depth - 1], b[rows.depth - 1]).distance;
      }
    }
  }
  return s;
}

// A gradient, and a bound on the rounding error of a computed one, [count, depth]. A plain sum in double could have a
// larger error than the engine.
struct Bounded {
  std::vector<long double> value;
  std::vector<double> bound;
};

// weight [rows, columns]: the derivative with respect to the measure of (row i, column j). `error`: a bound on the
// error of the weight. If `columns` is null, the columns are the rows, and each weight reaches both rows of its pair.
template <class T>
class DenseGradient {
 public:
  DenseGradient(const PairMeasure& measure, const MeasuredSide<T>& rows, const MeasuredSide<T>* columns,
                const std::vector<double>& weight, const std::vector<double>& error) {
    const MeasuredSide<T>& others = columns ? *columns : rows;
    Bounded to_rows = zeros(rows), to_others = zeros(others);
    Bounded& to_columns = columns ? to_others : to_rows;
    const double epsilon = std::numeric_limits<T>::epsilon();
    const int64_t depth = rows.depth;
    for (int64_t i = 0; i < rows.count; ++i) {
      for (int64_t j = 0; j < others.count; ++j) {
        const double w = weight[i * others.count + j], off = error[i * others.count + j];
        if (w == 0 && off == 0) continue;
        const double *a = rows.row(i), *b = others.row(j);
        const double sq_dist = squared_distance(measure, a, b, depth), d = std::sqrt(sq_dist);
        const bool hyperbolic = is_hyperbolic(measure);
        if ((measure.quantity == PairQuantity::kNegativeDistance || hyperbolic) && d == 0) continue;  // subgradient 0
        const double slope = hyperbolic ? Hyperbolic(sq_dist, a[depth - 1], b[depth - 1]).slope : 0;
        for (int64_t k = 0; k < depth; ++k) {
          const double difference = b[k] - a[k];
          double to_a = b[k], to_b = a[k];
          if (measure.quantity == PairQuantity::kNegativeDistance) to_b = -(to_a = difference / d);
          if (measure.quantity == PairQuantity::kNegativeSquaredDistance) to_b = -(to_a = 2 * difference);
          if (hyperbolic) to_b = -(to_a = slope * difference);
          // Unit rows are rounded, and their differences magnify the error. Other rows are exact, or nearly.
          double size = std::fabs(a[k]) + std::fabs(b[k]);
          if (measure.quantity != PairQuantity::kInnerProduct && !rows.normalized) size = std::fabs(difference);
          if (measure.quantity == PairQuantity::kNegativeDistance) size /= d;
          if (measure.quantity == PairQuantity::kNegativeSquaredDistance) size *= 2;
          if (hyperbolic) size *= slope;
          const double bound = std::fabs(w) * size * 8 * epsilon + off * (std::fabs(to_a) + std::fabs(to_b));
          to_rows.value[i * depth + k] += w * to_a;
          to_rows.bound[i * depth + k] += bound;
          to_columns.value[j * depth + k] += w * to_b;
          to_columns.bound[j * depth + k] += bound;
        }
      }
    }
    rows_ = projected(rows, to_rows);
    if (columns) columns_ = projected(others, to_others);
  }

  void check(const std::vector<T>& to_rows, const std::vector<T>& to_columns) const {
    check_one(to_rows, rows_);
    check_one(to_columns, columns_);
  }

 private:
  static Bounded zeros(const MeasuredSide<T>& side) {
    return {std::vector<long double>(side.x.size(), 0.0L), std::vector<double>(side.x.size(), 0.0)};
  }

  // u = x / max(|x|, 1e-12): du/dx = (I - u u^T) / |x|, and 0 for rows that have no direction.
  static Bounded projected(const MeasuredSide<T>& side, Bounded g) {
    for (int64_t i = 0; i < side.count && side.normalized; ++i) {
      long double *value = g.value.data() + i * side.depth, along = 0;
      double *bound = g.bound.data() + i * side.depth, along_bound = 0, size = 0;
      const double* u = side.row(i);
      if (side.scale[i] == 1e-12) {
        std::fill_n(value, side.depth, 0.0L);
        std::fill_n(bound, side.depth, 0.0);
        continue;
      }
      for (int64_t k = 0; k < side.depth; ++k) {
        along += value[k] * u[k];
        along_bound += bound[k] * std::fabs(u[k]);
        size += static_cast<double>(std::fabs(value[k] * u[k]));
      }
      along_bound += 8 * std::numeric_limits<T>::epsilon() * size;
      for (int64_t k = 0; k < side.depth; ++k) {
        bound[k] = (bound[k] + along_bound * std::fabs(u[k]) +
                    8 * std::numeric_limits<T>::epsilon() * static_cast<double>(std::fabs(value[k]))) /
                   side.scale[i];
        value[k] = (value[k] - along * u[k]) / side.scale[i];
      }
    }
    return g;
  }

  static void check_one(const std::vector<T>& got, const Bounded& want) {
    CHECK_EQ(got.size(), want.value.size());
    const double smallest = std::numeric_limits<T>::min();
    for (size_t e = 0; e < got.size(); ++e)
      CHECK_NEAR(got[e], static_cast<double>(want.value[e]), want.bound[e] + smallest);
  }

  Bounded rows_, columns_;
};

}  // namespace hardmine::test
