// AVX-512F: 32 registers of 512 bits, of which 12 x 2 are accumulators.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace hardmine::cpu::HARDMINE_TARGET {

// Zero-masking forms of intrinsics with a full mask compile to the plain form. They avoid a false warning of GCC 12
// about an uninitialized register.

template <class T>
struct Vec;

template <>
struct Vec<float> {
  static constexpr int64_t kLanes = 16;
  struct Mask {
    __mmask16 lanes;
    friend Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.lanes & b.lanes)}; }
    friend Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.lanes | b.lanes)}; }
    uint32_t bits() const { return lanes; }
  };
  __m512 v;

  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec broadcast(const float* p) { return {_mm512_set1_ps(*p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  Vec operator-() const {
    return {_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), _mm512_set1_epi32(INT32_MIN)))};
  }
  friend Mask operator>=(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
  friend Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
  friend Mask operator<=(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
  static Vec select(Mask mask, Vec a, Vec b) { return {_mm512_mask_blend_ps(mask.lanes, b.v, a.v)}; }
  // The lanes of a and b in turn: a0 b0 a1 b1 ..., of their first and of their second halves.
  static Vec interleave_low(Vec a, Vec b) {
    const __m512i lanes = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return {_mm512_permutex2var_ps(a.v, lanes, b.v)};
  }
  static Vec interleave_high(Vec a, Vec b) {
    const __m512i lanes = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return {_mm512_permutex2var_ps(a.v, lanes, b.v)};
  }
  friend Vec sqrt(Vec a) { return {_mm512_maskz_sqrt_ps(0xFFFF, a.v)}; }
  Vec mul_pow2(Vec shifted) const {
    return {_mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(v), _mm512_maskz_slli_epi32(0xFFFF, _mm512_castps_si512(shifted.v), 23)))};
  }
  // The sum of 16 lanes in the order of Partials: lane p plus p + 8, then p + 4, p + 2, p + 1.
  static float partials_sum(const Vec* sum) {
    const __m512d lanes = _mm512_castps_pd(sum[0].v);
    const __m256 eight = _mm256_add_ps(_mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xF, lanes, 0)),
                                       _mm256_castpd_ps(_mm512_maskz_extractf64x4_pd(0xF, lanes, 1)));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
};

template <>
struct Vec<double> {
  static constexpr int64_t kLanes = 8;
  struct Mask {
    __mmask8 lanes;
    friend Mask operator&(Mask a, Mask b) { return {static_cast<__mmask8>(a.lanes & b.lanes)}; }
    friend Mask operator|(Mask a, Mask b) { return {static_cast<__mmask8>(a.lanes | b.lanes)}; }
    uint32_t bits() const { return lanes; }
  };
  __m512d v;

  static Vec zero() { return {_mm512_setzero_pd()}; }
  static Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  static Vec broadcast(const double* p) { return {_mm512_set1_pd(*p)}; }
  void store(double* p) const { _mm512_storeu_pd(p, v); }
  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_pd(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_pd(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_pd(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm512_div_pd(a.v, b.v)}; }
  friend Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
  Vec operator-() const {
    return {_mm512_castsi512_pd(_mm512_xor_si512(_mm512_castpd_si512(v), _mm512_set1_epi64(INT64_MIN)))};
  }
  friend Mask operator>=(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
  friend Mask operator>(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ)}; }
  friend Mask operator<=(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)}; }
  static Vec select(Mask mask, Vec a, Vec b) { return {_mm512_mask_blend_pd(mask.lanes, b.v, a.v)}; }
  static Vec interleave_low(Vec a, Vec b) {
    return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b.v)};
  }
  static Vec interleave_high(Vec a, Vec b) {
    return {_mm512_permutex2var_pd(a.v, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b.v)};
  }
  friend Vec sqrt(Vec a) { return {_mm512_maskz_sqrt_pd(0xFF, a.v)}; }
  Vec mul_pow2(Vec shifted) const {
    return {_mm512_castsi512_pd(
        _mm512_add_epi64(_mm512_castpd_si512(v), _mm512_maskz_slli_epi64(0xFF, _mm512_castpd_si512(shifted.v), 52)))};
  }
};

inline constexpr int64_t kMicroTileRows = 12;
inline constexpr int64_t kColumnVecs = 2;

}  // namespace hardmine::cpu::HARDMINE_TARGET
