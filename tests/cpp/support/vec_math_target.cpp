// The functions of csrc/cpu/simd/vec_math.h over arrays, compiled once per SIMD target like csrc/cpu/simd/kernels.cpp.
// The same rule holds: no function of the standard library that could leave an out-of-line copy.

#include HARDMINE_VEC_HEADER

#include "cpu/simd/vec_math.h"
#include "support/vec_math_targets.h"

namespace hardmine::test {
namespace {

using namespace cpu::HARDMINE_TARGET;

template <class T>
using V = Vec<T>;

template <class T, V<T> (*kFunction)(V<T>)>
void map(const T* x, int64_t count, T* out) {
  for (int64_t i = 0; i < count; i += V<T>::kLanes) kFunction(V<T>::load(x + i)).store(out + i);
}

template <class T>
V<T> softplus_of(V<T> x) {
  return softplus(x, decay(x));
}
template <class T>
V<T> sigmoid_of(V<T> x) {
  return sigmoid(x, decay(x));
}

template <class T>
constexpr VecMath<T> kTable = {map<T, exp2<T>>, map<T, log1p<T>>, map<T, decay<T>>, map<T, softplus_of<T>>,
                               map<T, sigmoid_of<T>>};

}  // namespace

#define HARDMINE_CONCAT_(a, b) a##b
#define HARDMINE_CONCAT(a, b) HARDMINE_CONCAT_(a, b)
const VecMath<float> HARDMINE_CONCAT(kFloatMath_, HARDMINE_TARGET) = kTable<float>;
const VecMath<double> HARDMINE_CONCAT(kDoubleMath_, HARDMINE_TARGET) = kTable<double>;

}  // namespace hardmine::test
