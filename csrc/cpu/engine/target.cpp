#include "cpu/engine/target.h"

#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>

namespace hardmine::cpu {
namespace {

namespace available {
bool scalar() { return true; }
#if defined(__x86_64__)
bool avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool avx512() { return __builtin_cpu_supports("avx512f") != 0; }
#elif defined(__aarch64__)
bool neon() { return true; }
#endif
}  // namespace available

#define HARDMINE_TARGET_ENTRY(target) {#target, available::target},
constexpr SimdTarget kTargets[] = {HARDMINE_FOR_EACH_TARGET(HARDMINE_TARGET_ENTRY)};
#undef HARDMINE_TARGET_ENTRY

size_t choose_target() {
  const char* forced = std::getenv("HARDMINE_SIMD");
  constexpr size_t kNone = std::size(kTargets);
  size_t best = kNone;
  std::string names;
  for (size_t i = 0; i < std::size(kTargets); ++i) {
    if (!kTargets[i].is_available()) continue;
    names += std::string(names.empty() ? "'" : ", '") + kTargets[i].name + "'";
    if (!forced || !*forced || std::string_view(forced) == kTargets[i].name) best = i;
  }
  if (best == kNone)
    throw std::runtime_error("HARDMINE_SIMD must be one of " + names + " on this CPU, got '" + forced + "'");
  return best;
}

}  // namespace

std::span<const SimdTarget> simd_targets() { return kTargets; }

size_t simd_target_index() {
  static const size_t index = choose_target();
  return index;
}
const char* simd_target_name() { return kTargets[simd_target_index()].name; }

}  // namespace hardmine::cpu
