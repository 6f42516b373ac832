// The functions of hardmine._fanng for hardmine/mining, which checks types and shapes.
#include <tuple>

#include "fanng/python/python_threads.h"
#include "fanng/smart_triplets.h"

namespace py = pybind11;

namespace hardmine::fanng {
namespace {

template <class T>
using Dense = py::array_t<T, py::array::c_style>;  // no copies: with .noconvert()
using Mined = std::tuple<py::array_t<int64_t>, py::array_t<bool>, py::array_t<bool>>;

template <class T>
Mined mine(const Dense<int64_t>& neighbor_lists, const Dense<T>& distances, const Dense<int64_t>& labels, double kappa,
           int64_t per_anchor, uint64_t seed, int64_t threads) {
  const NeighborLists<T> lists{neighbor_lists.data(), distances.data(), neighbor_lists.shape(0),
                               neighbor_lists.shape(1)};
  const int64_t* label = labels.data();
  const Classes classes = [&] {
    const py::gil_scoped_release nogil;
    return Classes(label, lists.count);
  }();
  const int64_t triplets = classes.anchors() * per_anchor;
  py::array_t<int64_t> triplet({triplets, int64_t{3}});
  py::array_t<bool> mined(triplets), mined_positive(triplets);
  const MinedTriplets out{triplet.mutable_data(), mined.mutable_data(), mined_positive.mutable_data()};
  const double work = static_cast<double>(lists.count) * static_cast<double>(lists.length + per_anchor);
  on_threads(threads, work, [&](const cpu::ThreadPool& pool) {
    smart_triplets(lists, classes, {kappa, per_anchor, seed}, pool, out);
  });
  return {std::move(triplet), std::move(mined), std::move(mined_positive)};
}

template <class T>
void bind_smart_triplets(py::module_& module) {
  module.def("smart_triplets", &mine<T>, py::arg("neighbor_lists").noconvert(), py::arg("distances").noconvert(),
             py::arg("labels").noconvert(), py::arg("kappa"), py::arg("per_anchor"), py::arg("seed"),
             py::arg("threads"));
}

}  // namespace

void bind_mining(py::module_& module) {
  bind_smart_triplets<float>(module);
  bind_smart_triplets<double>(module);
}

}  // namespace hardmine::fanng
