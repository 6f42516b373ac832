// Kernels are compiled once per SIMD target, and are called through tables of function pointers.
//
// A kernel has two headers. <kernel>_table.h defines its table and the structs of its parameters. <kernel>.h defines
// the functions, and ends with HARDMINE_PROVIDE_KERNELS, which fills the table in the namespace of the target. The
// engine gets the table of the target in force from kernels<Table>() (cpu/engine/target.h). A new kernel adds its two
// headers, and one #include to kernels.cpp.
#pragma once

// Calls X(namespace) for each target of this architecture, from the slowest to the fastest.
#if defined(__x86_64__)
#define HARDMINE_FOR_EACH_TARGET(X) X(scalar) X(avx2) X(avx512)
#elif defined(__aarch64__)
#define HARDMINE_FOR_EACH_TARGET(X) X(scalar) X(neon)
#else
#define HARDMINE_FOR_EACH_TARGET(X) X(scalar)
#endif

namespace hardmine::cpu {

#define HARDMINE_DECLARE_TARGET(target) \
  namespace target {                    \
  template <class Table>                \
  const Table& kernel_table();          \
  }
HARDMINE_FOR_EACH_TARGET(HARDMINE_DECLARE_TARGET)
#undef HARDMINE_DECLARE_TARGET

}  // namespace hardmine::cpu

// Fills Table<float> and Table<double> by designated initializers in terms of the element type T.
#define HARDMINE_PROVIDE_KERNELS(Table, ...)           \
  template <class T>                                   \
  constexpr Table<T> k##Table = {__VA_ARGS__};         \
  template <>                                          \
  const Table<float>& kernel_table<Table<float>>() {   \
    return k##Table<float>;                            \
  }                                                    \
  template <>                                          \
  const Table<double>& kernel_table<Table<double>>() { \
    return k##Table<double>;                           \
  }
