// Elementary functions of vectors. They use only the operations of Vec, so that every SIMD target computes the same
// bits. The standard library's functions (core/elementary.h) would differ between targets, so these second versions are
// needed.
#pragma once

#include <cstdint>
#include <limits>

#include "core/elementary.h"

namespace hardmine::cpu::HARDMINE_TARGET {

template <class T>
inline Vec<T> constant(double value) {
  const T rounded = static_cast<T>(value);
  return Vec<T>::broadcast(&rounded);
}

// Taylor coefficients of 2^f = sum of (f ln 2)^n / n!. For |f| <= 1/2 the first omitted term is below 2^-26 (float) and
// 2^-57 (double).
template <class T>
struct Exp2Series {
  static constexpr int kTerms = sizeof(T) == sizeof(float) ? 8 : 14;
  T coefficient[kTerms];
  constexpr Exp2Series() : coefficient() {
    double c = 1;
    for (int n = 0; n < kTerms; c *= kLn2 / ++n) coefficient[n] = static_cast<T>(c);
  }
};

// 2^x for x <= 127; 0 for x < -125 and for NaN. 2^x = 2^n 2^(x - n) with n the integer nearest to x. Adding 1.5 *
// 2^(mantissa bits) rounds x to n, and leaves n in the low bits of the sum.
template <class T>
inline Vec<T> exp2(Vec<T> x) {
  using V = Vec<T>;
  static constexpr Exp2Series<T> kSeries;
  const V rounder = constant<T>(sizeof(T) == sizeof(float) ? 0x1.8p23 : 0x1.8p52);
  const V shifted = x + rounder;
  const V fraction = x - (shifted - rounder);
  V sum = V::broadcast(&kSeries.coefficient[Exp2Series<T>::kTerms - 1]);
#pragma GCC unroll 16
  for (int n = Exp2Series<T>::kTerms - 2; n >= 0; --n) sum = fma(sum, fraction, V::broadcast(&kSeries.coefficient[n]));
  return V::select(x >= constant<T>(-125), sum.mul_pow2(shifted), V::zero());
}

// log(1 + t) for 0 <= t <= 1, as 2 artanh(z) with z = t / (t + 2) <= 1/3 and artanh(z) = z sum of z^2n / (2n + 1). Its
// relative error is small for small t, too.
template <class T>
inline Vec<T> log1p(Vec<T> t) {
  using V = Vec<T>;
  constexpr int kTerms = sizeof(T) == sizeof(float) ? 9 : 18;
  const V z = t / (t + constant<T>(2));
  const V square = z * z;
  V sum = constant<T>(1.0 / (2 * kTerms - 1));
#pragma GCC unroll 32
  for (int n = kTerms - 2; n >= 0; --n) sum = fma(sum, square, constant<T>(1.0 / (2 * n + 1)));
  return (z + z) * sum;
}

template <class T>
inline Vec<T> negative_absolute(Vec<T> x) {
  return Vec<T>::select(x >= Vec<T>::zero(), -x, x);
}

// exp(-|x|), which never overflows. Argument e of the functions below.
template <class T>
inline Vec<T> decay(Vec<T> x) {
  return exp2(negative_absolute(x) * constant<T>(kLog2E));
}

// log(1 + exp(x)) = max(x, 0) + log(1 + e) with e = decay(x).
template <class T>
inline Vec<T> softplus(Vec<T> x, Vec<T> e) {
  using V = Vec<T>;
  return V::select(x >= V::zero(), x, V::zero()) + log1p(e);
}

// 1 / (1 + exp(-x)), the slope of softplus: 1 / (1 + e), or e / (1 + e) for x < 0.
template <class T>
inline Vec<T> sigmoid(Vec<T> x, Vec<T> e) {
  using V = Vec<T>;
  const V one = constant<T>(1);
  return V::select(x >= V::zero(), one, e) / (one + e);
}

}  // namespace hardmine::cpu::HARDMINE_TARGET
