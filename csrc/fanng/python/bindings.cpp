// hardmine._fanng: the index for numpy arrays. hardmine/fanng/index.py checks types and shapes.
#include <nanobind/stl/array.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <optional>
#include <tuple>

#include "fanng/index.h"
#include "fanng/python/array_checks.h"
#include "fanng/python/python_threads.h"
#include "fanng/search_width.h"

namespace nb = nanobind;

namespace hardmine::fanng {

void bind_mining(nb::module_& module);  // bind_mining.cpp

namespace {

using Found = std::tuple<NewArray<float>, NewArray<int64_t>>;

template <class T>
const T* data_of(const std::optional<Array<T>>& array) {
  return array ? array->data() : nullptr;
}

void check_range_of_rows(const Index& index, int64_t first, int64_t last) {
  check_range("last", last, 0, index.points().rows());
  check_range("first", first, 0, last);
}

template <class Search>
Found search_into(int64_t queries, int64_t k, const Limit& limit, int64_t threads, const Search& search) {
  check_range("k", k, 1, kMaxInt32);
  check_range("threads", threads, 1, kMaxInt32);
  check_range("max_computations", limit.max_computations, 0, kMaxInt32);
  check_range("width", limit.width, limit.max_computations == 0 ? 1 : 0, kMaxInt32);
  const auto rows = static_cast<size_t>(queries), columns = static_cast<size_t>(k);
  const auto distance = new_array<float>({rows, columns});
  const auto index = new_array<int64_t>({rows, columns});
  const Results results{k, distance.data(), index.data()};
  const int64_t computations =
      limit.max_computations > 0 ? limit.max_computations : kComputationsPerWidth * limit.width;
  on_threads(threads, static_cast<double>(queries) * static_cast<double>(computations),
             [&](const cpu::ThreadPool& pool) { search(pool, results); });
  return {distance, index};
}

std::unique_ptr<Index> build(const Array<float>& vectors, Metric metric, double success_rate, int64_t max_degree,
                             uint64_t seed, int64_t max_traversals, int64_t refinements, int64_t threads,
                             Seeding seeding, const Index* warm, const std::function<void(double, int64_t)>& progress) {
  check_shape("vectors", vectors, {kAnySize, kAnySize});
  check_range("max_degree", max_degree, 1, kMaxInt32);
  check_range("threads", threads, 1, kMaxInt32);
  const BuildOptions options{success_rate, max_degree, seed, max_traversals, refinements};
  const auto report = [&](double success, int64_t traversals) {
    if (!progress) return;
    const nb::gil_scoped_acquire gil;
    progress(success, traversals);
  };
  const nb::gil_scoped_release nogil;
  return std::make_unique<Index>(vectors.data(), vectors.shape(0), vectors.shape(1), metric, options, seeding, warm,
                                 Threads(threads, poll_signals), report);
}

std::unique_ptr<Index> changed(const Index& self, const Array<float>& vectors, const Array<int64_t>& source,
                               int64_t max_degree, uint64_t seed, int64_t threads) {
  check_shape("vectors", vectors, {kAnySize, self.points().depth()});
  check_shape("source", source, {static_cast<int64_t>(vectors.shape(0))});
  check_rows("source", source, -1, self.points().rows());
  check_range("max_degree", max_degree, 1, kMaxInt32);
  check_range("threads", threads, 1, kMaxInt32);
  const BuildOptions options{.success_rate = 0, .max_degree = max_degree, .seed = seed};
  const nb::gil_scoped_release nogil;
  return std::make_unique<Index>(self, vectors.data(), vectors.shape(0), source.data(), options,
                                 Threads(threads, poll_signals));
}

std::unique_ptr<Index> assemble(const Array<float>& vectors, Metric metric, const Array<int64_t>& first_edge,
                                const Array<Vertex>& target, const Array<Vertex>& starts, const Array<Vertex>& lists,
                                double success_rate, double build_success_rate, int64_t traversals,
                                int64_t distance_computations, int64_t components, int64_t connecting_edges,
                                const Widths& widths, double list_recall) {
  check_shape("vectors", vectors, {kAnySize, kAnySize});
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

NB_MODULE(_fanng, module) {
  module.attr("__doc__") =
      "The FANNG index and what is mined with it; hardmine.fanng and hardmine.mining are its faces.";
  bind_mining(module);
  nb::enum_<Metric>(module, "Metric")
      .value("euclidean", Metric::kEuclidean)
      .value("cosine", Metric::kCosine)
      .value("dot", Metric::kDot);
  nb::enum_<Seeding>(module, "Seeding")
      .value("nothing", Seeding::kNothing)
      .value("naive", Seeding::kAllEdges)
      .value("exact", Seeding::kNearest)
      .value("leaves", Seeding::kLeaves)
      .value("auto", Seeding::kAuto);
  nb::class_<Index>(module, "Index")
      .def_static("build", &build, nb::arg("vectors"), nb::arg("metric"), nb::arg("success_rate"),
                  nb::arg("max_degree"), nb::arg("seed"), nb::arg("max_traversals"), nb::arg("refinements"),
                  nb::arg("threads"), nb::arg("seeding"), nb::arg("warm").none(), nb::arg("progress").none())
      .def_static("assemble", &assemble)
      .def("changed", &changed, nb::arg("vectors"), nb::arg("source"), nb::arg("max_degree"), nb::arg("seed"),
           nb::arg("threads"))
      .def_prop_ro("rows", [](const Index& self) { return self.points().rows(); })
      .def_prop_ro("vertices", [](const Index& self) { return self.points().vertices(); })
      .def_prop_ro("depth", [](const Index& self) { return self.points().depth(); })
      .def_prop_ro("metric", [](const Index& self) { return self.points().metric(); })
      .def_prop_ro("traversals", [](const Index& self) { return self.stats().traversals; })
      .def_prop_ro("success_rate", [](const Index& self) { return self.stats().success_rate; })
      .def_prop_ro("build_success_rate", [](const Index& self) { return self.stats().build_success_rate; })
      .def_prop_ro("distance_computations", [](const Index& self) { return self.stats().distance_computations; })
      .def_prop_ro("components", [](const Index& self) { return self.stats().components; })
      .def_prop_ro("connecting_edges", [](const Index& self) { return self.stats().connecting_edges; })
      .def_prop_ro("widths", [](const Index& self) { return self.stats().widths; })
      .def("search_width", [](const Index& self, int64_t k) { return default_width(self.stats().widths, k); })
      .def_prop_ro("list_recall", [](const Index& self) { return self.stats().list_recall; })
      .def("lists_hold", &Index::lists_hold)
      .def_prop_ro(
          "lists",
          [](const Index& self) {
            return copy_of(self.lists().data(),
                           {static_cast<size_t>(self.points().vertices()), static_cast<size_t>(self.list_length())});
          },
          nb::rv_policy::move)
      .def_prop_ro(
          "graph",
          [](const Index& self) {
            const Graph& graph = self.graph();
            return std::make_tuple(copy_of(graph.first_edge.data(), {graph.first_edge.size()}),
                                   copy_of(graph.target.data(), {graph.target.size()}),
                                   copy_of(graph.starts.data(), {graph.starts.size()}));
          },
          nb::rv_policy::move)
      .def(
          "search",
          [](const Index& self, const Array<float>& queries, int64_t k, int64_t max_computations, int64_t width,
             const std::optional<Array<int64_t>>& start, const std::optional<Array<uint8_t>>& allowed,
             const std::optional<Array<int64_t>>& query_ids, const std::optional<Array<int64_t>>& row_ids,
             int64_t threads) {
            const int64_t rows = self.points().rows();
            check_shape("queries", queries, {kAnySize, self.points().depth()});
            const auto count = static_cast<int64_t>(queries.shape(0));
            check_shape("start", start, {count});
            check_shape("allowed", allowed, {rows});
            check_shape("query_ids", query_ids, {count});
            check_shape("row_ids", row_ids, {rows});
            if (query_ids.has_value() != row_ids.has_value()) refuse("query_ids", "given with row_ids", "one of them");
            const Limit limit{max_computations, width};
            const RowFilter filter{data_of(allowed), data_of(row_ids), data_of(query_ids)};
            return search_into(count, k, limit, threads, [&](const cpu::ThreadPool& pool, const Results& results) {
              self.search(queries.data(), count, data_of(start), limit, filter, pool, results);
            });
          },
          nb::arg("queries"), nb::arg("k"), nb::arg("max_computations"), nb::arg("width"), nb::arg("start").none(),
          nb::arg("allowed").none(), nb::arg("query_ids").none(), nb::arg("row_ids").none(), nb::arg("threads"))
      .def(
          "search_held_out",
          [](const Index& self, const Array<int64_t>& rows, const Array<float>& distances, int64_t k,
             int64_t max_computations, int64_t width, int64_t threads) {
            const auto count = static_cast<int64_t>(rows.size());
            check_shape("rows", rows, {count});
            check_rows("rows", rows, 0, self.points().rows());
            check_shape("distances", distances, {count});
            const Limit limit{max_computations, width};
            return search_into(count, k, limit, threads, [&](const cpu::ThreadPool& pool, const Results& results) {
              self.search_held_out(rows.data(), distances.data(), count, limit, pool, results);
            });
          },
          nb::arg("rows"), nb::arg("distances"), nb::arg("k"), nb::arg("max_computations"), nb::arg("width"),
          nb::arg("threads"))
      .def(
          "listed",
          [](const Index& self, int64_t first, int64_t last, int64_t k, int64_t threads) {
            check_range_of_rows(self, first, last);
            if (!self.lists_hold(k)) refuse("k", "held by the lists of the build", std::to_string(k));
            return search_into(
                last - first, k, {.max_computations = k}, threads,
                [&](const cpu::ThreadPool& pool, const Results& results) { self.listed(first, last, pool, results); });
          },
          nb::arg("first"), nb::arg("last"), nb::arg("k"), nb::arg("threads"))
      .def(
          "neighbors",
          [](const Index& self, int64_t first, int64_t last, int64_t k, int64_t max_computations, int64_t width,
             int64_t threads) {
            check_range_of_rows(self, first, last);
            const Limit limit{max_computations, width};
            return search_into(last - first, k, limit, threads,
                               [&](const cpu::ThreadPool& pool, const Results& results) {
                                 self.neighbors(first, last, limit, pool, results);
                               });
          },
          nb::arg("first"), nb::arg("last"), nb::arg("k"), nb::arg("max_computations"), nb::arg("width"),
          nb::arg("threads"));
}

}  // namespace hardmine::fanng
