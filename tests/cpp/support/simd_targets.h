// The SIMD targets of this build, including those that this CPU lacks.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/engine/target.h"
#include "cpu/simd/batch_all_block_table.h"
#include "cpu/simd/block_table.h"
#include "cpu/simd/gradient_gemm_table.h"
#include "cpu/simd/knn_block_table.h"
#include "cpu/simd/logsumexp_block_table.h"
#include "cpu/simd/range_block_table.h"
#include "cpu/simd/rank_block_table.h"
#include "cpu/simd/row_kernels_table.h"
#include "cpu/simd/select_block_table.h"
#include "cpu/simd/sigmoid_block_table.h"
#include "cpu/simd/tuplet_block_table.h"
#include "support/check.h"

namespace hardmine::test {

// All kernels of one target.
template <class T>
struct Kernels : cpu::RowKernels<T>,
                 cpu::TileKernels<T>,
                 cpu::GradientKernels<T>,
                 cpu::SelectKernels<T>,
                 cpu::KnnKernels<T>,
                 cpu::LogSumExpKernels<T>,
                 cpu::RankKernels<T>,
                 cpu::RangeKernels<T>,
                 cpu::SigmoidKernels<T>,
                 cpu::TupletKernels<T>,
                 cpu::BatchAllKernels<T> {};

// get(table) of the kernels' own types.
#define HARDMINE_ALL_KERNELS(get)                                                                \
  {get<cpu::RowKernels<T>>(),    get<cpu::TileKernels<T>>(),    get<cpu::GradientKernels<T>>(),  \
   get<cpu::SelectKernels<T>>(), get<cpu::KnnKernels<T>>(),     get<cpu::LogSumExpKernels<T>>(), \
   get<cpu::RankKernels<T>>(),   get<cpu::RangeKernels<T>>(),   get<cpu::SigmoidKernels<T>>(),   \
   get<cpu::TupletKernels<T>>(), get<cpu::BatchAllKernels<T>>()}

// Those of the target in force.
template <class T>
const Kernels<T>& active_kernels() {
  static const Kernels<T> all = HARDMINE_ALL_KERNELS(cpu::kernels);
  return all;
}

#define HARDMINE_TARGET_KERNELS(target)                                            \
  template <class T>                                                               \
  const Kernels<T>& target##_kernels() {                                           \
    static const Kernels<T> all = HARDMINE_ALL_KERNELS(cpu::target::kernel_table); \
    return all;                                                                    \
  }
HARDMINE_FOR_EACH_TARGET(HARDMINE_TARGET_KERNELS)
#undef HARDMINE_TARGET_KERNELS
#undef HARDMINE_ALL_KERNELS

struct BuiltTarget {
  std::string name;
  bool available;  // on this CPU
  const Kernels<float>& for_float;
  const Kernels<double>& for_double;

  template <class T>
  const Kernels<T>& table() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return for_float;
    } else {
      return for_double;
    }
  }
};

// Ascending, scalar first.
inline std::vector<BuiltTarget> built_targets() {
  std::vector<BuiltTarget> targets;
  const auto add = [&](const Kernels<float>& for_float, const Kernels<double>& for_double) {
    const cpu::SimdTarget& target = cpu::simd_targets()[targets.size()];
    targets.push_back({target.name, target.is_available(), for_float, for_double});
  };
#define HARDMINE_ADD_TARGET(target) add(target##_kernels<float>(), target##_kernels<double>());
  HARDMINE_FOR_EACH_TARGET(HARDMINE_ADD_TARGET)
#undef HARDMINE_ADD_TARGET
  return targets;
}

// Calls body(target, scalar kernels, kernels of the target) for each target above scalar that this CPU has.
template <class T, class Body>
void for_each_target(const Body& body) {
  const std::vector<BuiltTarget> targets = built_targets();
  for (const BuiltTarget& target : targets)
    if (target.available && target.name != "scalar") body(target, targets[0].table<T>(), target.table<T>());
}

// The first test in every file that runs once per target. Skips the file if the CPU lacks the target. Otherwise checks
// that HARDMINE_SIMD is obeyed.
inline void check_forced_target() {
  const char* forced = std::getenv("HARDMINE_SIMD");
  if (!forced) return;
  for (const BuiltTarget& target : built_targets())
    if (target.name == forced && !target.available) throw Skip{"this CPU lacks " + target.name};
  CHECK_EQ(std::string(cpu::simd_target_name()), std::string(forced));
}

}  // namespace hardmine::test
