// AVX2 and FMA: 16 registers of 256 bits, for 6 x 2 accumulators, 2 columns, a row broadcast and a scratch register.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace hardmine::cpu::HARDMINE_TARGET {

template <class T>
struct Vec;

template <>
struct Vec<float> {
  static constexpr int64_t kLanes = 8;
  struct Mask {
    __m256 lanes;
    friend Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.lanes, b.lanes)}; }
    friend Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.lanes, b.lanes)}; }
    uint32_t bits() const { return static_cast<uint32_t>(_mm256_movemask_ps(lanes)); }
  };
  __m256 v;

  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  Vec operator-() const { return {_mm256_xor_ps(v, _mm256_set1_ps(-0.0F))}; }
  friend Mask operator>=(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
  friend Mask operator>(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
  friend Mask operator<=(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
  static Vec select(Mask mask, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, mask.lanes)}; }
  // The lanes of a and b in turn: a0 b0 a1 b1 ..., of their first and of their second halves.
  static Vec interleave_low(Vec a, Vec b) {
    return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x20)};
  }
  static Vec interleave_high(Vec a, Vec b) {
    return {_mm256_permute2f128_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v), 0x31)};
  }
  friend Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
  Vec mul_pow2(Vec shifted) const {
    return {_mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23)))};
  }
  // The sum of 16 lanes in the order of Partials: lane p plus p + 8, then p + 4, p + 2, p + 1.
  static float partials_sum(const Vec* sum) {
    const __m256 eight = _mm256_add_ps(sum[0].v, sum[1].v);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

template <>
struct Vec<double> {
  static constexpr int64_t kLanes = 4;
  struct Mask {
    __m256d lanes;
    friend Mask operator&(Mask a, Mask b) { return {_mm256_and_pd(a.lanes, b.lanes)}; }
    friend Mask operator|(Mask a, Mask b) { return {_mm256_or_pd(a.lanes, b.lanes)}; }
    uint32_t bits() const { return static_cast<uint32_t>(_mm256_movemask_pd(lanes)); }
  };
  __m256d v;

  static Vec zero() { return {_mm256_setzero_pd()}; }
  static Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  static Vec broadcast(const double* p) { return {_mm256_broadcast_sd(p)}; }
  void store(double* p) const { _mm256_storeu_pd(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm256_add_pd(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_pd(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_pd(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm256_div_pd(a.v, b.v)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
  Vec operator-() const { return {_mm256_xor_pd(v, _mm256_set1_pd(-0.0))}; }
  friend Mask operator>=(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)}; }
  friend Mask operator>(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)}; }
  friend Mask operator<=(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
  static Vec select(Mask mask, Vec a, Vec b) { return {_mm256_blendv_pd(b.v, a.v, mask.lanes)}; }
  static Vec interleave_low(Vec a, Vec b) {
    return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x20)};
  }
  static Vec interleave_high(Vec a, Vec b) {
    return {_mm256_permute2f128_pd(_mm256_unpacklo_pd(a.v, b.v), _mm256_unpackhi_pd(a.v, b.v), 0x31)};
  }
  friend Vec sqrt(Vec a) { return {_mm256_sqrt_pd(a.v)}; }
  Vec mul_pow2(Vec shifted) const {
    return {_mm256_castsi256_pd(
        _mm256_add_epi64(_mm256_castpd_si256(v), _mm256_slli_epi64(_mm256_castpd_si256(shifted.v), 52)))};
  }
};

inline constexpr int64_t kMicroTileRows = 6;
inline constexpr int64_t kColumnVecs = 2;

}  // namespace hardmine::cpu::HARDMINE_TARGET
