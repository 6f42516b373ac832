// The source of every SIMD level: compiled once each, with HARDMINE_LEVEL naming the level and its namespace.
//
// Nothing of the standard library that could leave an out-of-line copy may be used under this file: the linker would be
// free to call that copy, made for this level, on CPUs that lack it. tests/build/test_build.py looks for such copies.

#define HARDMINE_CONCAT_(a, b) a##b
#define HARDMINE_CONCAT(a, b) HARDMINE_CONCAT_(a, b)
#include HARDMINE_VEC_HEADER

#include "cpu/simd/batch_all_block.h"
#include "cpu/simd/block.h"
#include "cpu/simd/gradient_gemm.h"
#include "cpu/simd/knn_block.h"
#include "cpu/simd/row_kernels.h"
#include "cpu/simd/select_block.h"
#include "cpu/simd/tuplet_block.h"

namespace hardmine::cpu {
namespace HARDMINE_LEVEL {

template <class T>
constexpr Kernels<T> kTable = {
    .row_group = kRowGroup,
    .column_panel = kPanel<T>,
    .row_norms = row_norms<T>,
    .pack = pack<T>,
    .select_block = select_block<T>,
    .knn_block = knn_block<T>,
    .fill_block = fill_block<T>,
    .exponential_sums = exponential_sums<T>,
    .softplus_sums = softplus_sums<T>,
    .tuplet_weights = tuplet_weights<T>,
    .batch_all_negatives = batch_all_negatives<T>,
    .batch_all_positives = batch_all_positives<T>,
    .pack_depth = pack_depth<T>,
    .accumulate = accumulate<T>,
    .tile_number = tile_number<T>,
    .add_scaled = add_scaled<T>,
    .add_scaled_difference = add_scaled_difference<T>,
    .distance = distance<T>,
    .squared_distance = squared_distance<T>,
    .dot = dot<T>,
    .squared_distances = squared_distances<T>,
    .project = project<T>,
};

}  // namespace HARDMINE_LEVEL

extern const Kernels<float> HARDMINE_CONCAT(kFloatKernels_, HARDMINE_LEVEL);
extern const Kernels<double> HARDMINE_CONCAT(kDoubleKernels_, HARDMINE_LEVEL);
const Kernels<float> HARDMINE_CONCAT(kFloatKernels_, HARDMINE_LEVEL) = HARDMINE_LEVEL::kTable<float>;
const Kernels<double> HARDMINE_CONCAT(kDoubleKernels_, HARDMINE_LEVEL) = HARDMINE_LEVEL::kTable<double>;

}  // namespace hardmine::cpu
