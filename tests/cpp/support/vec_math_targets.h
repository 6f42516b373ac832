// The elementary functions of every SIMD target of this build, as functions of arrays.
#pragma once

#include <cstdint>

namespace hardmine::test {

// out[i] = f(x[i]). `count` is a multiple of 16, the largest number of lanes.
template <class T>
struct VecMath {
  using Map = void (*)(const T* x, int64_t count, T* out);
  Map exp2, log1p, decay, softplus, sigmoid;
};

#define HARDMINE_DECLARE_MATH(target)              \
  extern const VecMath<float> kFloatMath_##target; \
  extern const VecMath<double> kDoubleMath_##target;
HARDMINE_DECLARE_MATH(scalar)
#if defined(__x86_64__)
HARDMINE_DECLARE_MATH(avx2)
HARDMINE_DECLARE_MATH(avx512)
#elif defined(__aarch64__)
HARDMINE_DECLARE_MATH(neon)
#endif
#undef HARDMINE_DECLARE_MATH

}  // namespace hardmine::test
