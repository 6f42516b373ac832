// Graphs of random integers, as from a damaged file. The constructor throws, or searches of the index end and stay in
// bounds. Most useful under the sanitizers.

#include <limits>
#include <set>
#include <stdexcept>

#include "support/graphs.h"

namespace fanng = hardmine::fanng;  // not all of hardmine, whose Index is a number
using namespace hardmine::test;
using fanng::Index;

namespace {

// The definition of a graph over `vertices` vertices.
bool is_graph(const Graph& graph, int64_t vertices) {
  const std::vector<int64_t>& first = graph.first_edge;
  if (static_cast<int64_t>(first.size()) != vertices + 1 || first[0] != 0) return false;
  if (first.back() != static_cast<int64_t>(graph.target.size())) return false;
  for (size_t v = 1; v < first.size(); ++v)
    if (first[v] < first[v - 1]) return false;
  for (int64_t v = 0; v < vertices; ++v)
    for (int64_t e = first[v]; e < first[v + 1]; ++e)
      if (graph.target[e] >= vertices || graph.target[e] == v) return false;
  const std::set<Vertex> starts(graph.starts.begin(), graph.starts.end());
  if (starts.size() != graph.starts.size() || starts.empty() != (vertices == 0)) return false;
  return std::all_of(starts.begin(), starts.end(), [&](Vertex start) { return start < vertices; });
}

int64_t odd_number(Random& random) {
  constexpr int64_t odd[] = {
      -1, 0, 1, 2, 1 << 20, int64_t{1} << 40, std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
  return odd[random.below(8)];
}

Graph random_graph(int64_t vertices, Random& random) {
  Graph graph;
  graph.first_edge = {0};
  for (int64_t v = 0; v < vertices; ++v) graph.first_edge.push_back(graph.first_edge.back() + random.below(4));
  for (int64_t v = 0; v < vertices; ++v) {
    for (int64_t e = graph.first_edge[v]; e < graph.first_edge[v + 1]; ++e) {
      auto target = static_cast<Vertex>(random.below(std::max<int64_t>(vertices, 1)));
      if (target == v) target = vertices > 1 ? (target + 1) % static_cast<Vertex>(vertices) : 0;
      graph.target.push_back(target);
    }
  }
  for (int64_t v = 0; v < vertices; ++v)
    if (v == 0 || random.below(4) == 0) graph.starts.push_back(static_cast<Vertex>(v));
  return graph;
}

void damage(Graph& graph, Random& random) {
  const auto at = [&](const auto& values) { return random.below(static_cast<int64_t>(values.size())); };
  switch (random.below(9)) {
    case 0:
      graph.first_edge[at(graph.first_edge)] = odd_number(random);
      break;
    case 1:
      for (int64_t& first : graph.first_edge)
        if (random.below(8) == 0 && std::abs(first / 2) < 1000) first += random.below(5) - 2;
      break;
    case 2:
      if (!graph.target.empty()) graph.target[at(graph.target)] = static_cast<Vertex>(random.bits());
      break;
    case 3:
      if (!graph.target.empty()) graph.target[at(graph.target)] = static_cast<Vertex>(random.below(40));
      break;
    case 4:
      graph.target.resize(static_cast<size_t>(random.below(60)), 1);
      break;
    case 5:
      graph.first_edge.resize(static_cast<size_t>(random.below(30) + 1), graph.first_edge.back());
      break;
    case 6:
      graph.starts.resize(static_cast<size_t>(random.below(4)), static_cast<Vertex>(random.below(30)));
      break;
    case 7:
      if (!graph.starts.empty()) graph.starts[at(graph.starts)] = static_cast<Vertex>(random.bits());
      break;
    default:
      random.shuffle(graph.first_edge);
  }
}

// What the call throws, or an empty text.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

void check_searches(const Index& index, Random& random) {
  const int64_t rows = index.points().rows();
  const Cloud queries = exact_cloud(index.points().metric(), 3, index.points().depth(), random);
  const int64_t k = 1 + random.below(9), limit = 1 + random.below(60);
  for (const Found& found : {listed(index, k, limit), searched(index, queries.x, k, limit)}) {
    for (size_t i = 0; i < found.index.size(); ++i) {
      CHECK(found.index[i] >= -1 && found.index[i] < rows);
      CHECK_EQ(std::isnan(found.distance[i]), found.index[i] < 0);
      if (i % static_cast<size_t>(k) > 0 && found.index[i] >= 0) CHECK(found.distance[i] >= found.distance[i - 1]);
    }
  }
}

}  // namespace

TEST(index_random_integers_are_a_graph_or_an_error) {
  Random random(12);
  int64_t graphs = 0, refused = 0;
  for (int64_t n = 0; n < 6000; ++n) {
    const Metric metric = kMetrics[random.below(2)];
    const Cloud cloud = exact_cloud(metric, random.below(25), 1 + random.below(3), random);
    const int64_t vertices = cloud.points().vertices();
    Graph graph = random_graph(vertices, random);
    for (int64_t harm = random.below(4); harm-- > 0;) damage(graph, random);
    context = "graph " + std::to_string(n);
    const bool good = is_graph(graph, vertices);
    try {
      const Index index(cloud.x.data(), cloud.count, cloud.depth, metric, graph, {}, {});
      CHECK(good);
      ++graphs;
      check_searches(index, random);
      if (random.below(5) > 0) continue;
      // The graph also seeds another build.
      const Index next = built(cloud, {.max_traversals = 300}, fanng::Seeding::kNothing, &index);
      CHECK(is_graph(next.graph(), vertices));
      check_searches(next, random);
    } catch (const std::invalid_argument& error) {
      CHECK(!good);
      CHECK(std::string(error.what()).find("graph: ") != std::string::npos);
      ++refused;
    }
  }
  CHECK(graphs > 1500);
  CHECK(refused > 1500);
}

TEST(index_nonfinite_rows_are_reported_before_graph) {
  Random random(3);
  for (int64_t n = 0; n < 500; ++n) {
    const int64_t count = 1 + random.below(10);
    const Cloud cloud = {count, 2, kMetrics[random.below(2)], rough_rows<float>(count, 2, true, random)};
    Graph graph = random_graph(count, random);
    const std::string rows = error_of([&] { cloud.points(); });
    const std::string index = error_of([&] { Index(cloud.x.data(), count, 2, cloud.metric, graph, {}, {}); });
    // The rows are checked first, whether or not the graph is valid.
    if (!rows.empty()) CHECK_EQ(index, rows);
  }
}
