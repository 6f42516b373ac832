// Log-sum-exps over the pairs of each anchor, and the mean similarity of its positives. SupCon, InfoNCE and similar
// losses are sums of these.
//
// L_i = log sum_j exp(s_ij / t) over the pairs of a kind, with temperature t. It is stored as the largest similarity,
// `shift`, and log_sum = log sum_j exp((s_ij - shift) / t), so that L_i - s / t = (shift - s) / t + log_sum loses no
// digits for large s / t. With p_ij = exp(s_ij / t - L_i):
//   d L_i / d s_ij = p_ij / t,
//   d L_i / d t = -sum_j p_ij s_ij / t^2, and with the shift held constant, that of log_sum is -mean_offset / t^2,
//   mean_offset = sum_j p_ij (s_ij - shift).
// Losses may put another number x_ij, the logit, in place of s_ij: all of the above then holds with x, and derivatives
// by s are those by x times the slope of the logit.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "core/host_device.h"
#include "core/losses/pair_logit.h"
#include "core/losses/tuplet_terms.h"
#include "core/options.h"
#include "core/selection.h"

namespace hardmine {

// The pairs of an anchor that a log-sum-exp is over. The order of the enumerators is that of the names in
// hardmine/types.py.
enum class LogSumExpPairs { kPositive, kNegative, kAll };

struct LogSumExpRule {
  Similarity similarity = Similarity::kCosine;
  LogSumExpPairs pairs = LogSumExpPairs::kAll;
  bool of_columns = false;  // refs are anchors as well, with the batch as their candidates
  bool positives = false;   // also the mean similarity of each anchor's positives
  bool allow_tf32 = false;  // float32 factors of products may be rounded to TF32; only CUDA does
  LogitKind logit = LogitKind::kSimilarity;
  double margin = 0;  // of the circle loss
};

inline LogSumExpRule logsumexp_rule(int64_t similarity, int64_t pairs, bool of_columns, bool positives, int64_t logit,
                                    double margin, bool allow_tf32) {
  const LogSumExpRule rule{.similarity = similarity_from_code(similarity),
                           .pairs = enum_from_code("pairs", pairs, LogSumExpPairs::kAll),
                           .of_columns = of_columns,
                           .positives = positives,
                           .allow_tf32 = allow_tf32,
                           .logit = enum_from_code("logit", logit, LogitKind::kCircle),
                           .margin = margin};
  if (rule.logit == LogitKind::kSimilarity) return rule;
  if (rule.positives || rule.similarity == Similarity::kEuclidean)
    throw std::invalid_argument("logit must be that of similarities with positives or Euclidean distances");
  if (rule.logit == LogitKind::kCircle && rule.pairs == LogSumExpPairs::kAll)
    throw std::invalid_argument("pairs must be positive or negative for the logit of the circle loss");
  return rule;
}

template <class T>
PairLogit<T> pair_logit(const LogSumExpRule& rule) {
  return PairLogit<T>::of(rule.logit, rule.pairs == LogSumExpPairs::kPositive, rule.margin);
}

// The state of each row of a set, [count] each. Null: the rows are not anchors.
template <class T>
struct LogSumExpState {
  T* shift = nullptr;        // the largest similarity; 0 without a pair
  T* sum = nullptr;          // sum_j exp((s_ij - shift) / t); 0 without a pair
  T* mean_offset = nullptr;  // 0 without a pair
};
template <class T>
struct SavedLogSumExp {
  const T* gradient = nullptr;  // of log_sum; null: the rows are not anchors
  const T* shift = nullptr;
  const T* sum = nullptr;
};

template <class T>
struct LogSumExpOut {
  LogSumExpState<T> rows, columns;
  T* log_sum;         // [anchors]; -infinity without a pair
  T* column_log_sum;  // [refs]; null without of_columns
  // The mean similarity of an anchor's positives, 0 if there is none, and their number. Null if not wanted.
  T* positive_similarity;   // [anchors]
  int64_t* positive_count;  // [anchors]
};

template <class T>
struct LogSumExpSaved {
  SavedLogSumExp<T> rows, columns;
  const T* bound = nullptr;          // [anchors], as in the forward pass
  const T* grad_positive = nullptr;  // [anchors], of the mean similarity of positives; null: none
  const int64_t* positive_count = nullptr;
};

// The coefficients of an anchor in the derivatives d loss / d s of its pairs:
//   each pair of the kind: weight exp((s - shift) / t);   each positive, in addition: positive_weight.
// Without a pair, the weight is 0 and the shift infinity, so that no exponential is NaN.
template <class T>
struct LogSumExpCoefficients {
  T weight = 0;
  T shift = std::numeric_limits<T>::infinity();
};

template <class T>
HARDMINE_HD LogSumExpCoefficients<T> logsumexp_coefficients(T gradient, T shift, T sum, double temperature) {
  if (sum == T(0)) return {};  // NaN stays
  return {static_cast<T>(static_cast<double>(gradient) / temperature / static_cast<double>(sum)), shift};
}

template <class T>
HARDMINE_HD T positive_coefficient(T gradient, int64_t count) {
  return count > 0 ? static_cast<T>(static_cast<double>(gradient) / static_cast<double>(count)) : T(0);
}

}  // namespace hardmine
