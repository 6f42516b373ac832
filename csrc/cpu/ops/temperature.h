// The temperatures, and their inverses, that the CPU ops of log-sum-exps are given.
#pragma once

#include <string>

#include "logsumexp_tensors.h"

namespace hardmine::cpu {

// The value and its inverse must be finite in float.
inline double scale_in_range(const std::string& name, double value) {
  if (!(value >= 1e-30 && value <= 1e30))
    fail(name + " must be a number from 1e-30 to 1e+30, got " + std::to_string(value));
  return value;
}

inline double temperature_in_range(double value) { return scale_in_range("temperature", value); }

inline double temperature_of(const Tensor& temperature, const Tensor& embeddings) {
  return temperature_in_range(*data<double>(checked_temperature(temperature, embeddings)));
}

}  // namespace hardmine::cpu
