// The elementary functions of every SIMD target of this build, as functions of arrays.
#pragma once

#include <cstdint>

#include "cpu/simd/kernel_table.h"

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
HARDMINE_FOR_EACH_TARGET(HARDMINE_DECLARE_MATH)
#undef HARDMINE_DECLARE_MATH

}  // namespace hardmine::test
