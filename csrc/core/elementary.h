// Elementary functions and the constants that change the base of exponentials.
#pragma once

#include <cmath>

#include "core/host_device.h"

namespace hardmine {

inline constexpr double kLog2E = 1.44269504088896340736;
inline constexpr double kLn2 = 0.69314718055994530942;

// log(1 + exp(x)).
template <class T>
HARDMINE_HD T softplus(T x) {
  return (x > T(0) ? x : T(0)) + std::log1p(std::exp(-std::fabs(x)));
}

// 1 / (1 + exp(-x)), the slope of softplus.
template <class T>
HARDMINE_HD T sigmoid(T x) {
  const T e = std::exp(-std::fabs(x));  // never overflows
  return (x >= T(0) ? T(1) : e) / (T(1) + e);
}

}  // namespace hardmine
