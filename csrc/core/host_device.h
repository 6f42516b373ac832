// HARDMINE_HD marks a function that runs on the host and on the device.
#pragma once

#if defined(__CUDACC__)
#define HARDMINE_HD __host__ __device__ __forceinline__
#else
// Always inlined on the host: these functions are also included by translation units that are compiled for a SIMD
// target above the baseline, and an out-of-line copy from there could be picked by the linker for every caller, on
// every CPU.
#define HARDMINE_HD inline __attribute__((always_inline))
#endif
