// The SIMD target: which of the compiled copies of the kernels (cpu/simd/kernel_table.h) this process calls.
#pragma once

#include <cstddef>
#include <span>

#include "cpu/simd/kernel_table.h"

namespace hardmine::cpu {

struct SimdTarget {
  const char* name;
  bool (*is_available)();  // on this CPU
};
// The targets of this build, in the order of HARDMINE_FOR_EACH_TARGET.
std::span<const SimdTarget> simd_targets();

// The target in force: HARDMINE_SIMD if set, else the best that this CPU has. Chosen once; throws std::runtime_error
// if HARDMINE_SIMD names an unknown target, or one that this CPU or build lacks.
const char* simd_target_name();
size_t simd_target_index();

// The kernels of the target in force, such as kernels<KnnKernels<float>>(). Throws as above.
template <class Table>
const Table& kernels() {
  using Provider = const Table& (*)();
#define HARDMINE_PROVIDER(target) target::kernel_table<Table>,
  static constexpr Provider kProviders[] = {HARDMINE_FOR_EACH_TARGET(HARDMINE_PROVIDER)};
#undef HARDMINE_PROVIDER
  return kProviders[simd_target_index()]();
}

}  // namespace hardmine::cpu
