// The SIMD levels of this build, whether or not this CPU has them.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/simd/simd.h"
#include "support/check.h"

namespace hardmine::cpu {

#define HARDMINE_DECLARE_LEVEL(level)                \
  extern const Kernels<float> kFloatKernels_##level; \
  extern const Kernels<double> kDoubleKernels_##level;
HARDMINE_DECLARE_LEVEL(scalar)
#if defined(__x86_64__)
HARDMINE_DECLARE_LEVEL(avx2)
HARDMINE_DECLARE_LEVEL(avx512)
#elif defined(__aarch64__)
HARDMINE_DECLARE_LEVEL(neon)
#endif
#undef HARDMINE_DECLARE_LEVEL

}  // namespace hardmine::cpu

namespace hardmine::test {

struct BuiltLevel {
  std::string name;
  bool available;  // on this CPU
  const cpu::Kernels<float>& for_float;
  const cpu::Kernels<double>& for_double;

  template <class T>
  const cpu::Kernels<T>& table() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return for_float;
    } else {
      return for_double;
    }
  }
};

// Ascending, scalar first.
inline std::vector<BuiltLevel> built_levels() {
  return {
      {"scalar", true, cpu::kFloatKernels_scalar, cpu::kDoubleKernels_scalar},
#if defined(__x86_64__)
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), cpu::kFloatKernels_avx2,
       cpu::kDoubleKernels_avx2},
      {"avx512", __builtin_cpu_supports("avx512f") != 0, cpu::kFloatKernels_avx512, cpu::kDoubleKernels_avx512},
#elif defined(__aarch64__)
      {"neon", true, cpu::kFloatKernels_neon, cpu::kDoubleKernels_neon},
#endif
  };
}

// Calls body(level, scalar kernels, the level's kernels) for each level above scalar that this CPU has.
template <class T, class Body>
void for_each_level(const Body& body) {
  const std::vector<BuiltLevel> levels = built_levels();
  for (const BuiltLevel& level : levels)
    if (level.available && level.name != "scalar") body(level, levels[0].table<T>(), level.table<T>());
}

// The first test of every file that is run once a level: skips the file where the CPU lacks the level, and otherwise
// checks that HARDMINE_SIMD is obeyed.
inline void check_forced_level() {
  const char* forced = std::getenv("HARDMINE_SIMD");
  if (!forced) return;
  for (const BuiltLevel& level : built_levels())
    if (level.name == forced && !level.available) throw Skip{"this CPU lacks " + level.name};
  CHECK_EQ(std::string(cpu::simd_level_name()), std::string(forced));
}

}  // namespace hardmine::test
