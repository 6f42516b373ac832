#include <torch/csrc/stable/library.h>

#include <string>

#include "cpu/engine/target.h"

namespace hardmine::cpu {
namespace {

std::string simd_level_op() { return simd_target_name(); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CompositeExplicitAutograd, m) { m.impl("simd_level", TORCH_BOX(&simd_level_op)); }

}  // namespace hardmine::cpu
