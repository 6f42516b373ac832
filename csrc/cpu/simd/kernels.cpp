// The kernels of one SIMD target: compiled once per target, with HARDMINE_TARGET naming the target and its namespace.
//
// Nothing of the standard library that could leave an out-of-line copy may be used under this file: the linker would be
// free to call that copy, made for this target, on CPUs that lack it. tests/build/test_build.py looks for such copies.

#include HARDMINE_VEC_HEADER

#include "cpu/simd/batch_all_block.h"
#include "cpu/simd/block.h"
#include "cpu/simd/gradient_gemm.h"
#include "cpu/simd/knn_block.h"
#include "cpu/simd/logsumexp_block.h"
#include "cpu/simd/range_block.h"
#include "cpu/simd/rank_block.h"
#include "cpu/simd/row_kernels.h"
#include "cpu/simd/select_block.h"
#include "cpu/simd/sigmoid_block.h"
#include "cpu/simd/tuplet_block.h"
