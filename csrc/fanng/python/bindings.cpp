// hardmine._fanng: the index for numpy arrays. hardmine/fanng/index.py checks types and shapes.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <string>
#include <tuple>

#include "fanng/index.h"
#include "fanng/python/python_threads.h"
#include "fanng/search_width.h"

namespace py = pybind11;

namespace hardmine::fanng {

void bind_mining(py::module_& module);  // bind_mining.cpp

namespace {

using Found = std::tuple<py::array_t<float>, py::array_t<int64_t>>;

constexpr int64_t kComputationsPerWidth = 10;  // about, in searches of limited width

template <class Search>
Found search_into(int64_t queries, int64_t k, const Limit& limit, int64_t threads, const Search& search) {
  py::array_t<float> distance({queries, k});
  py::array_t<int64_t> index({queries, k});
  const Results results{k, distance.mutable_data(), index.mutable_data()};
  const int64_t computations =
      limit.max_computations > 0 ? limit.max_computations : kComputationsPerWidth * limit.width;
  on_threads(threads, static_cast<double>(queries) * static_cast<double>(computations),
             [&](const cpu::ThreadPool& pool) { search(pool, results); });
  return {std::move(distance), std::move(index)};
}

std::unique_ptr<Index> build(const Array<float>& vectors, Metric metric, double success_rate, int64_t max_degree,
                             uint64_t seed, int64_t max_traversals, int64_t refinements, int64_t threads,
                             Seeding seeding, const Index* warm, const std::function<void(double, int64_t)>& progress) {
  const BuildOptions options{success_rate, max_degree, seed, max_traversals, refinements};
  const auto report = [&](double success, int64_t traversals) {
    if (!progress) return;
    const py::gil_scoped_acquire gil;
    progress(success, traversals);
  };
  const py::gil_scoped_release nogil;
  return std::make_unique<Index>(vectors.data(), vectors.shape(0), vectors.shape(1), metric, options, seeding, warm,
                                 Threads(threads, poll_signals), report);
}

std::unique_ptr<Index> changed(const Index& self, const Array<float>& vectors, const Array<int64_t>& source,
                               int64_t max_degree, uint64_t seed, int64_t threads) {
  const BuildOptions options{.success_rate = 0, .max_degree = max_degree, .seed = seed};
  const py::gil_scoped_release nogil;
  return std::make_unique<Index>(self, vectors.data(), vectors.shape(0), source.data(), options,
                                 Threads(threads, poll_signals));
}

std::unique_ptr<Index> assemble(const Array<float>& vectors, Metric metric, const Array<int64_t>& first_edge,
                                const Array<Vertex>& target, const Array<Vertex>& starts, const Array<Vertex>& lists,
                                double success_rate, double build_success_rate, int64_t traversals,
                                int64_t distance_computations, int64_t components, int64_t connecting_edges,
                                const Widths& widths, double list_recall) {
  Graph graph;
  graph.first_edge.assign(first_edge.data(), first_edge.data() + first_edge.size());
  graph.target.assign(target.data(), target.data() + target.size());
  graph.starts.assign(starts.data(), starts.data() + starts.size());
  if (graph.first_edge.empty()) throw std::invalid_argument("graph: first_edge must not be empty");
  return std::make_unique<Index>(vectors.data(), vectors.shape(0), vectors.shape(1), metric, std::move(graph),
                                 std::vector<Vertex>(lists.data(), lists.data() + lists.size()),
                                 BuildStats{.traversals = traversals,
                                            .success_rate = success_rate,
                                            .build_success_rate = build_success_rate,
                                            .distance_computations = distance_computations,
                                            .components = components,
                                            .connecting_edges = connecting_edges,
                                            .widths = widths,
                                            .list_recall = list_recall});
}

}  // namespace

PYBIND11_MODULE(_fanng, module) {
  module.doc() = "The FANNG index and what is mined with it; hardmine.fanng and hardmine.mining are its faces.";
  bind_mining(module);
  py::enum_<Metric>(module, "Metric").value("euclidean", Metric::kEuclidean).value("cosine", Metric::kCosine);
  py::enum_<Seeding>(module, "Seeding")
      .value("nothing", Seeding::kNothing)
      .value("naive", Seeding::kAllEdges)
      .value("exact", Seeding::kNearest)
      .value("leaves", Seeding::kLeaves)
      .value("auto", Seeding::kAuto);
  py::class_<Index>(module, "Index")
      .def_static("build", &build, py::arg("vectors"), py::arg("metric"), py::arg("success_rate"),
                  py::arg("max_degree"), py::arg("seed"), py::arg("max_traversals"), py::arg("refinements"),
                  py::arg("threads"), py::arg("seeding"), py::arg("warm").none(true), py::arg("progress"))
      .def_static("assemble", &assemble)
      .def("changed", &changed, py::arg("vectors"), py::arg("source"), py::arg("max_degree"), py::arg("seed"),
           py::arg("threads"))
      .def_property_readonly("rows", [](const Index& self) { return self.points().rows(); })
      .def_property_readonly("vertices", [](const Index& self) { return self.points().vertices(); })
      .def_property_readonly("depth", [](const Index& self) { return self.points().depth(); })
      .def_property_readonly("metric", [](const Index& self) { return self.points().metric(); })
      .def_property_readonly("traversals", [](const Index& self) { return self.stats().traversals; })
      .def_property_readonly("success_rate", [](const Index& self) { return self.stats().success_rate; })
      .def_property_readonly("build_success_rate", [](const Index& self) { return self.stats().build_success_rate; })
      .def_property_readonly("distance_computations",
                             [](const Index& self) { return self.stats().distance_computations; })
      .def_property_readonly("components", [](const Index& self) { return self.stats().components; })
      .def_property_readonly("connecting_edges", [](const Index& self) { return self.stats().connecting_edges; })
      .def_property_readonly("widths", [](const Index& self) { return self.stats().widths; })
      .def("search_width", [](const Index& self, int64_t k) { return default_width(self.stats().widths, k); })
      .def_property_readonly("list_recall", [](const Index& self) { return self.stats().list_recall; })
      .def("lists_hold", &Index::lists_hold)
      .def_property_readonly("lists",
                             [](const Index& self) {
                               return py::array_t<Vertex>({self.points().vertices(), self.list_length()},
                                                          self.lists().data());
                             })
      .def_property_readonly("graph",
                             [](const Index& self) {
                               const Graph& graph = self.graph();
                               return std::make_tuple(
                                   py::array_t<int64_t>(graph.first_edge.size(), graph.first_edge.data()),
                                   py::array_t<Vertex>(graph.target.size(), graph.target.data()),
                                   py::array_t<Vertex>(graph.starts.size(), graph.starts.data()));
                             })
      .def(
          "search",
          [](const Index& self, const Array<float>& queries, int64_t k, int64_t max_computations, int64_t width,
             const std::optional<Array<int64_t>>& start, int64_t threads) {
            const int64_t count = queries.shape(0);
            const Limit limit{max_computations, width};
            return search_into(count, k, limit, threads, [&](const cpu::ThreadPool& pool, const Results& results) {
              self.search(queries.data(), count, start ? start->data() : nullptr, limit, pool, results);
            });
          },
          py::arg("queries"), py::arg("k"), py::arg("max_computations"), py::arg("width"), py::arg("start").none(true),
          py::arg("threads"))
      .def(
          "search_held_out",
          [](const Index& self, const Array<int64_t>& rows, const Array<float>& distances, int64_t k,
             int64_t max_computations, int64_t width, int64_t threads) {
            const int64_t count = rows.size();
            const Limit limit{max_computations, width};
            return search_into(count, k, limit, threads, [&](const cpu::ThreadPool& pool, const Results& results) {
              self.search_held_out(rows.data(), distances.data(), count, limit, pool, results);
            });
          },
          py::arg("rows"), py::arg("distances"), py::arg("k"), py::arg("max_computations"), py::arg("width"),
          py::arg("threads"))
      .def(
          "listed",
          [](const Index& self, int64_t first, int64_t last, int64_t k, int64_t threads) {
            return search_into(
                last - first, k, {.max_computations = k}, threads,
                [&](const cpu::ThreadPool& pool, const Results& results) { self.listed(first, last, pool, results); });
          },
          py::arg("first"), py::arg("last"), py::arg("k"), py::arg("threads"))
      .def(
          "neighbors",
          [](const Index& self, int64_t first, int64_t last, int64_t k, int64_t max_computations, int64_t width,
             int64_t threads) {
            const Limit limit{max_computations, width};
            return search_into(last - first, k, limit, threads,
                               [&](const cpu::ThreadPool& pool, const Results& results) {
                                 self.neighbors(first, last, limit, pool, results);
                               });
          },
          py::arg("first"), py::arg("last"), py::arg("k"), py::arg("max_computations"), py::arg("width"),
          py::arg("threads"));
}

}  // namespace hardmine::fanng
