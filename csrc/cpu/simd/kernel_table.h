// How a kernel, which is compiled once per SIMD target, reaches its callers: through a table of function pointers.
//
// A kernel consists of <kernel>_table.h, the table and the structs that its functions take, and <kernel>.h, the
// functions. The latter ends with HARDMINE_PROVIDE_KERNELS, which fills the table in the target's namespace. The engine
// calls kernels<Table>() (cpu/engine/target.h) for the table of the target in force. A new kernel adds its two headers
// and one #include in kernels.cpp.
#pragma once

// The targets of this architecture, ascending: calls X(namespace) for each.
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

// Fills Table<float> and Table<double>, a template of the element type, with the designated initializers that follow,
// in terms of the element type T.
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
