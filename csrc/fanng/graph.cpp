#include "fanng/graph.h"

namespace hardmine::fanng {

std::vector<Vertex> nearby_order(const Graph& graph) {
  std::vector<Vertex> order, stack;
  order.reserve(graph.vertices());
  std::vector<bool> seen(graph.vertices(), false);
  for (Vertex root = 0; root < static_cast<Vertex>(graph.vertices()); ++root) {
    stack.push_back(root);
    while (!stack.empty()) {
      const Vertex v = stack.back();
      stack.pop_back();
      if (seen[v]) continue;
      seen[v] = true;
      order.push_back(v);
      // Pushed in descending order, so that the nearest is on top.
      for (const Vertex* edge = graph.end(v); edge != graph.begin(v);)
        if (const Vertex u = *--edge; !seen[u]) stack.push_back(u);
    }
  }
  return order;
}

}  // namespace hardmine::fanng
