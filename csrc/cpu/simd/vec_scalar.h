// One lane of plain C++. Every other target must agree with it, bit for bit.
#pragma once

#include <cmath>
#include <cstdint>

namespace hardmine::cpu::HARDMINE_TARGET {

template <class T>
struct Vec {
  static constexpr int64_t kLanes = 1;
  struct Mask {
    uint32_t lanes;  // one bit per lane
    friend Mask operator&(Mask a, Mask b) { return {a.lanes & b.lanes}; }
    friend Mask operator|(Mask a, Mask b) { return {a.lanes | b.lanes}; }
    uint32_t bits() const { return lanes; }
  };
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
  Vec operator-() const { return {-v}; }
  friend Mask operator>=(Vec a, Vec b) { return {a.v >= b.v}; }  // false if either is NaN
  friend Mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
  friend Mask operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
  static Vec select(Mask mask, Vec a, Vec b) { return mask.lanes ? a : b; }
  static Vec interleave_low(Vec a, Vec) { return a; }  // of one lane there is nothing to interleave
  static Vec interleave_high(Vec, Vec b) { return b; }
  friend Vec sqrt(Vec a) { return {std::sqrt(a.v)}; }
  // v 2^n for normal results. `shifted` is n + 1.5 * 2^(mantissa bits), so that the low bits of its mantissa are n.
  Vec mul_pow2(Vec shifted) const {
    if constexpr (sizeof(T) == sizeof(float)) {
      const uint32_t power = __builtin_bit_cast(uint32_t, shifted.v) << 23;
      return {__builtin_bit_cast(T, __builtin_bit_cast(uint32_t, v) + power)};
    } else {
      const uint64_t power = __builtin_bit_cast(uint64_t, shifted.v) << 52;
      return {__builtin_bit_cast(T, __builtin_bit_cast(uint64_t, v) + power)};
    }
  }
};

inline constexpr int64_t kMicroTileRows = 4;
inline constexpr int64_t kColumnVecs = 4;

}  // namespace hardmine::cpu::HARDMINE_TARGET
