// One lane of plain C++. Every other target must agree with it, bit for bit.
#pragma once

#include <cmath>
#include <cstdint>

namespace hardmine::cpu::HARDMINE_TARGET {

template <class T>
struct Vec {
  static constexpr int64_t kLanes = 1;
  using Mask = uint32_t;
  T v;

  static Vec zero() { return {T(0)}; }
  static Vec load(const T* p) { return {*p}; }
  static Vec broadcast(const T* p) { return {*p}; }
  void store(T* p) const { *p = v; }
  friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  friend Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
  friend Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
  friend Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {std::fma(a.v, b.v, c.v)}; }
  Vec negated() const { return {-v}; }
  friend Mask at_least(Vec a, Vec b) { return a.v >= b.v; }  // false where either is NaN
  friend Mask greater(Vec a, Vec b) { return a.v > b.v; }
  friend Mask at_most(Vec a, Vec b) { return a.v <= b.v; }
  static Mask both(Mask a, Mask b) { return a & b; }
  static Mask either(Mask a, Mask b) { return a | b; }
  static Vec select(Mask mask, Vec a, Vec b) { return mask ? a : b; }
  Vec root() const { return {std::sqrt(v)}; }
  // v 2^n for normal results. `shifted` is n + 1.5 * 2^(mantissa bits), so that the low bits of its mantissa are n.
  Vec times_power(Vec shifted) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      const uint32_t power = __builtin_bit_cast(uint32_t, shifted.v) << 23;
      return {__builtin_bit_cast(T, __builtin_bit_cast(uint32_t, v) + power)};
    } else {
      const uint64_t power = __builtin_bit_cast(uint64_t, shifted.v) << 52;
      return {__builtin_bit_cast(T, __builtin_bit_cast(uint64_t, v) + power)};
    }
  }
  static uint32_t bits(Mask mask) { return mask; }  // one bit a lane
};

inline constexpr int64_t kMicroTileRows = 4;
inline constexpr int64_t kColumnVecs = 4;

}  // namespace hardmine::cpu::HARDMINE_TARGET
