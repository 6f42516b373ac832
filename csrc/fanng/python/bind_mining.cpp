// The functions of hardmine._fanng for hardmine/mining, which checks types and shapes.
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "fanng/python/array_checks.h"
#include "fanng/python/python_threads.h"
#include "fanng/smart_triplets.h"

namespace nb = nanobind;

namespace hardmine::fanng {
namespace {

using Mined = std::tuple<NewArray<int64_t>, NewArray<bool>, NewArray<bool>>;

template <class T>
Mined mine(const Array<int64_t>& neighbor_lists, const Array<T>& distances, const Array<int64_t>& labels, double kappa,
           int64_t per_anchor, uint64_t seed, int64_t threads) {
  check_shape("neighbor_lists", neighbor_lists, {kAnySize, kAnySize});
  const auto rows_of_lists = static_cast<int64_t>(neighbor_lists.shape(0));
  check_shape("distances", distances, {rows_of_lists, static_cast<int64_t>(neighbor_lists.shape(1))});
  check_shape("labels", labels, {rows_of_lists});
  check_range("per_anchor", per_anchor, 1, kMaxInt32);
  check_range("threads", threads, 1, kMaxInt32);
  const NeighborLists<T> lists{neighbor_lists.data(), distances.data(), static_cast<int64_t>(neighbor_lists.shape(0)),
                               static_cast<int64_t>(neighbor_lists.shape(1))};
  const int64_t* label = labels.data();
  const Classes classes = [&] {
    const nb::gil_scoped_release nogil;
    return Classes(label, lists.count);
  }();
  const int64_t triplets = classes.anchors() * per_anchor;
  const auto rows = static_cast<size_t>(triplets);
  const auto triplet = new_array<int64_t>({rows, 3});
  const auto mined = new_array<bool>({rows}), mined_positive = new_array<bool>({rows});
  const MinedTriplets out{triplet.data(), mined.data(), mined_positive.data()};
  const double work = static_cast<double>(lists.count) * static_cast<double>(lists.length + per_anchor);
  on_threads(threads, work, [&](const cpu::ThreadPool& pool) {
    smart_triplets(lists, classes, {kappa, per_anchor, seed}, pool, out);
  });
  return {triplet, mined, mined_positive};
}

template <class T>
void bind_smart_triplets(nb::module_& module) {
  module.def("smart_triplets", &mine<T>, nb::arg("neighbor_lists").noconvert(), nb::arg("distances").noconvert(),
             nb::arg("labels").noconvert(), nb::arg("kappa"), nb::arg("per_anchor"), nb::arg("seed"),
             nb::arg("threads"));
}

}  // namespace

void bind_mining(nb::module_& module) {
  bind_smart_triplets<float>(module);
  bind_smart_triplets<double>(module);
}

}  // namespace hardmine::fanng
