#include "cpu/simd/simd.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

namespace hardmine::cpu {

#define HARDMINE_DECLARE_LEVEL(level)                \
  extern const Kernels<float> kFloatKernels_##level; \
  extern const Kernels<double> kDoubleKernels_##level;
HARDMINE_DECLARE_LEVEL(scalar)
#if defined(HARDMINE_HAS_X86)
HARDMINE_DECLARE_LEVEL(avx2)
HARDMINE_DECLARE_LEVEL(avx512)
#endif
#if defined(HARDMINE_HAS_NEON)
HARDMINE_DECLARE_LEVEL(neon)
#endif

namespace {

struct Level {
  SimdLevel level;
  const char* name;
  bool (*available)();
  const Kernels<float>* for_float;
  const Kernels<double>* for_double;
};

// Ascending: the last one that the CPU has is taken.
const Level kLevels[] = {
    {SimdLevel::kScalar, "scalar", [] { return true; }, &kFloatKernels_scalar, &kDoubleKernels_scalar},
#if defined(HARDMINE_HAS_X86)
    {SimdLevel::kAvx2, "avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     &kFloatKernels_avx2, &kDoubleKernels_avx2},
    {SimdLevel::kAvx512, "avx512", [] { return __builtin_cpu_supports("avx512f") != 0; }, &kFloatKernels_avx512,
     &kDoubleKernels_avx512},
#endif
#if defined(HARDMINE_HAS_NEON)
    {SimdLevel::kNeon, "neon", [] { return true; }, &kFloatKernels_neon, &kDoubleKernels_neon},
#endif
};

const Level& choose_level() {
  const char* forced = std::getenv("HARDMINE_SIMD");
  const Level* best = nullptr;
  std::string names;
  for (const Level& level : kLevels) {
    if (!level.available()) continue;
    names += std::string(names.empty() ? "'" : ", '") + level.name + "'";
    if (!forced || !*forced || std::string_view(forced) == level.name) best = &level;
  }
  if (!best) throw std::runtime_error("HARDMINE_SIMD must be one of " + names + " on this CPU, got '" + forced + "'");
  return *best;
}

const Level& active_level() {
  static const Level& level = choose_level();
  return level;
}

}  // namespace

SimdLevel simd_level() { return active_level().level; }
const char* simd_level_name() { return active_level().name; }

template <>
const Kernels<float>& kernels<float>() {
  return *active_level().for_float;
}
template <>
const Kernels<double>& kernels<double>() {
  return *active_level().for_double;
}

}  // namespace hardmine::cpu
