// InfoNCE on pairs: query i belongs to key i, and all other keys are its negatives. With symmetric, key i is classified
// among the queries as well, and the loss is the mean of both directions.
//
// The term of a row is softplus(L - s_ii / t), with L the log-sum-exp over its negatives and temperature t
// (core/losses/tuplet_terms.h), weighted with w. By the chain rule, with x = L - s_ii / t and p_ij = exp(s_ij / t - L):
//   d term / d s_ij = w sigmoid(x) p_ij / t,   d term / d s_ii = -w sigmoid(x) / t,
//   d term / d t = -w sigmoid(x) (sum_j p_ij s_ij - s_ii) / t^2.
// The gradient of a sum of terms is known up to a factor when all similarities are, so there is no backward pass.
#pragma once

#include <cmath>
#include <limits>

#include "core/losses/tuplet_terms.h"
#include "core/options.h"
#include "core/selection.h"

namespace hardmine {

struct InfoNceRule {
  Similarity similarity = Similarity::kCosine;
  bool symmetric = false;
  bool is_mean = true;  // over the pairs; else a sum
};

// The weight of a row's term. Each direction of a symmetric loss counts one half.
inline double info_nce_weight(const InfoNceRule& rule, int64_t pairs) {
  return (rule.symmetric ? 0.5 : 1.0) / static_cast<double>(rule.is_mean && pairs > 0 ? pairs : 1);
}

// Of a row with negatives: its weighted term, and the coefficients in the derivatives by its similarities,
//   negative: negative_weight exp((s_ij - shift) / t);   its own pair: -positive_weight.
struct InfoNceTerm {
  double value, negative_weight, positive_weight, grad_temperature;
};

// sum = sum_j exp((s_ij - shift) / t), offset = sum_j exp((s_ij - shift) / t) (s_ij - shift), over the negatives.
inline InfoNceTerm info_nce_term(double shift, double sum, double offset, double positive_similarity,
                                 double temperature, double weight) {
  const TupletTerm term = tuplet_term(shift, std::log(sum), positive_similarity, temperature);
  const double slope = weight * term.slope / temperature;
  return {.value = weight * term.value,
          .negative_weight = slope / sum,
          .positive_weight = slope,
          .grad_temperature = -slope * (offset / sum + shift - positive_similarity) / temperature};
}

}  // namespace hardmine
