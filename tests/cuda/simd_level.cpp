// Replaces csrc/cpu/ops/simd_level.cpp.
#include <torch/csrc/stable/library.h>

#include <string>

namespace {
std::string simd_level() { return "emulated CUDA"; }
}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardmine, CompositeExplicitAutograd, m) { m.impl("simd_level", TORCH_BOX(&simd_level)); }
