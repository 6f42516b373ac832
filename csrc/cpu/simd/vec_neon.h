// NEON of AArch64: 32 registers of 128 bits, of which 6 x 4 are accumulators.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace hardmine::cpu::HARDMINE_TARGET {

template <class T>
struct Vec;

template <>
struct Vec<float> {
  static constexpr int64_t kLanes = 4;
  struct Mask {
    uint32x4_t lanes;
    friend Mask operator&(Mask a, Mask b) { return {vandq_u32(a.lanes, b.lanes)}; }
    friend Mask operator|(Mask a, Mask b) { return {vorrq_u32(a.lanes, b.lanes)}; }
    uint32_t bits() const {
      const uint32x4_t lane_bit = {1, 2, 4, 8};
      return vaddvq_u32(vandq_u32(lanes, lane_bit));
    }
  };
  float32x4_t v;

  static Vec zero() { return {vdupq_n_f32(0)}; }
  static Vec load(const float* p) { return {vld1q_f32(p)}; }
  static Vec broadcast(const float* p) { return {vld1q_dup_f32(p)}; }
  void store(float* p) const { vst1q_f32(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
  Vec operator-() const { return {vnegq_f32(v)}; }
  friend Mask operator>=(Vec a, Vec b) { return {vcgeq_f32(a.v, b.v)}; }
  friend Mask operator>(Vec a, Vec b) { return {vcgtq_f32(a.v, b.v)}; }
  friend Mask operator<=(Vec a, Vec b) { return {vcleq_f32(a.v, b.v)}; }
  static Vec select(Mask mask, Vec a, Vec b) { return {vbslq_f32(mask.lanes, a.v, b.v)}; }
  // The lanes of a and b in turn: a0 b0 a1 b1 ..., of their first and of their second halves.
  static Vec interleave_low(Vec a, Vec b) { return {vzip1q_f32(a.v, b.v)}; }
  static Vec interleave_high(Vec a, Vec b) { return {vzip2q_f32(a.v, b.v)}; }
  friend Vec sqrt(Vec a) { return {vsqrtq_f32(a.v)}; }
  Vec mul_pow2(Vec shifted) const {
    return {
        vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(v), vshlq_n_s32(vreinterpretq_s32_f32(shifted.v), 23)))};
  }
};

template <>
struct Vec<double> {
  static constexpr int64_t kLanes = 2;
  struct Mask {
    uint64x2_t lanes;
    friend Mask operator&(Mask a, Mask b) { return {vandq_u64(a.lanes, b.lanes)}; }
    friend Mask operator|(Mask a, Mask b) { return {vorrq_u64(a.lanes, b.lanes)}; }
    uint32_t bits() const {
      const uint64x2_t lane_bit = {1, 2};
      return static_cast<uint32_t>(vaddvq_u64(vandq_u64(lanes, lane_bit)));
    }
  };
  float64x2_t v;

  static Vec zero() { return {vdupq_n_f64(0)}; }
  static Vec load(const double* p) { return {vld1q_f64(p)}; }
  static Vec broadcast(const double* p) { return {vld1q_dup_f64(p)}; }
  void store(double* p) const { vst1q_f64(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {vaddq_f64(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {vsubq_f64(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {vmulq_f64(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {vdivq_f64(a.v, b.v)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f64(c.v, a.v, b.v)}; }
  Vec operator-() const { return {vnegq_f64(v)}; }
  friend Mask operator>=(Vec a, Vec b) { return {vcgeq_f64(a.v, b.v)}; }
  friend Mask operator>(Vec a, Vec b) { return {vcgtq_f64(a.v, b.v)}; }
  friend Mask operator<=(Vec a, Vec b) { return {vcleq_f64(a.v, b.v)}; }
  static Vec select(Mask mask, Vec a, Vec b) { return {vbslq_f64(mask.lanes, a.v, b.v)}; }
  static Vec interleave_low(Vec a, Vec b) { return {vzip1q_f64(a.v, b.v)}; }
  static Vec interleave_high(Vec a, Vec b) { return {vzip2q_f64(a.v, b.v)}; }
  friend Vec sqrt(Vec a) { return {vsqrtq_f64(a.v)}; }
  Vec mul_pow2(Vec shifted) const {
    return {
        vreinterpretq_f64_s64(vaddq_s64(vreinterpretq_s64_f64(v), vshlq_n_s64(vreinterpretq_s64_f64(shifted.v), 52)))};
  }
};

inline constexpr int64_t kMicroTileRows = 6;
inline constexpr int64_t kColumnVecs = 4;

}  // namespace hardmine::cpu::HARDMINE_TARGET
