// The temperature that the CPU ops of log-sum-exps are given.
#pragma once

#include <string>

#include "logsumexp_tensors.h"

namespace hardmine::cpu {

inline double temperature_in_range(double value) {
  // 1 / temperature must be finite in float.
  if (!(value >= 1e-30 && value <= 1e30))
    fail("temperature must be a number from 1e-30 to 1e+30, got " + std::to_string(value));
  return value;
}

inline double temperature_of(const Tensor& temperature, const Tensor& embeddings) {
  return temperature_in_range(*data<double>(checked_temperature(temperature, embeddings)));
}

}  // namespace hardmine::cpu
