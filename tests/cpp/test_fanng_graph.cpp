// Edges of a graph under construction, compared with a plain version of the occlusion rule. Points have small integer
// coordinates, so distances are exact and tie often.

#include "cpu/engine/knn.h"
#include "fanng/search.h"
#include "support/graphs.h"

using namespace hardmine;
using namespace hardmine::test;
using fanng::BuildStats;
using fanng::Distances;

namespace {

// Random candidates for the edges of p, ascending, without duplicates and without p.
Edges random_candidates(const PointSet& points, Vertex p, Random& random) {
  Edges candidates;
  for (Vertex q = 0; q < points.vertices(); ++q)
    if (q != p && random.below(3) > 0) candidates.push_back(edge_between(points, p, q));
  std::sort(candidates.begin(), candidates.end());
  return candidates;
}

// The edges of p after q was offered to it.
Edges with_edge(const PointSet& points, Vertex p, Edges edges, PackedNeighbor q, bool fresh, int64_t room) {
  if (std::find(edges.begin(), edges.end(), q) != edges.end()) return edges;
  if (fresh && hidden(points, p, edges, q)) return edges;
  std::erase_if(edges, [&](PackedNeighbor longer) { return hides(points, p, vertex_of(q), vertex_of(longer)); });
  edges.insert(std::lower_bound(edges.begin(), edges.end(), q), q);
  if (static_cast<int64_t>(edges.size()) > room) edges.pop_back();
  return edges;
}

template <class Body>
void for_exact_clouds(const Body& body) {
  for (const Metric metric : kMetrics) {
    for (const int64_t count : {2, 3, 20, 60}) {
      for (const int64_t depth : {1, 2, 3, 17}) {
        Random random(static_cast<uint64_t>(1000 * depth + count));
        context = name_of(metric) + ", " + std::to_string(count) + " x " + std::to_string(depth);
        body(exact_cloud(metric, count, depth, random), random);
      }
    }
  }
}

std::vector<Edges> naive_edges(const PointSet& points) {
  std::vector<Edges> edges;
  for (Vertex p = 0; p < points.vertices(); ++p) {
    Edges others;
    for (Vertex q = 0; q < points.vertices(); ++q)
      if (q != p) others.push_back(edge_between(points, p, q));
    edges.push_back(pruned(points, p, others, points.vertices()));
  }
  return edges;
}

DraftGraph naive_draft(const PointSet& points, const cpu::ThreadPool& pool = SerialPool()) {
  DraftGraph graph(points.vertices(), std::max<int64_t>(points.vertices(), 1));
  BuildStats stats;
  add_all_edges(points, pool, graph, stats);
  return graph;
}

}  // namespace

TEST(distances_between_stored_rows_are_exact) {
  for_exact_clouds([](const Cloud& cloud, Random& random) {
    const PointSet points = cloud.points();
    const Distances distances(points);
    const auto v = static_cast<Vertex>(random.below(points.vertices()));
    for (Vertex u = 0; u < points.vertices(); ++u) {
      CHECK_EQ(distances.between(v, u), static_cast<float>(exact_sq_dist(points, v, u)));
      CHECK_EQ(distances.to(points.vector(v), u), distances.between(u, v));
    }
  });
}

TEST(assign_any_candidates_keeps_edges_that_none_occludes) {
  int64_t dropped = 0;
  for_exact_clouds([&](const Cloud& cloud, Random& random) {
    const PointSet points = cloud.points();
    const Distances distances(points);
    for (const int64_t room : {1, 2, 5, 64}) {
      DraftGraph graph(points.vertices(), room);
      CHECK_EQ(graph.vertices(), points.vertices());
      std::vector<Edges> want(points.vertices());
      for (Vertex p = 0; p < points.vertices(); ++p) {
        const Edges candidates = random_candidates(points, p, random);
        want[p] = pruned(points, p, candidates, room);
        Edges shuffled = candidates;  // and some twice
        for (const PackedNeighbor q : candidates)
          if (random.below(3) == 0) shuffled.push_back(q);
        for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[random.below(i)]);
        graph.assign(p, shuffled, distances);
        CHECK_EQ(graph.degree(p), static_cast<int64_t>(want[p].size()));
        dropped += static_cast<int64_t>(candidates.size() - want[p].size());
      }
      CHECK(all_edges(graph) == want);  // no vertex overwrote the edges of another
      graph.assign(0, {}, distances);
      want[0].clear();
      CHECK(all_edges(graph) == want);
    }
  });
  CHECK(dropped > 1000);
}

TEST(add_edge_removes_edges_that_it_occludes) {
  int64_t refused = 0, displaced = 0, out_of_room = 0;
  for_exact_clouds([&](const Cloud& cloud, Random& random) {
    const PointSet points = cloud.points();
    const Distances distances(points);
    for (const int64_t room : {1, 2, 4, 64}) {
      DraftGraph graph(points.vertices(), room);
      std::vector<Edges> want(points.vertices());
      for (int64_t n = 0; n < 300; ++n) {
        const auto p = static_cast<Vertex>(random.below(points.vertices()));
        const auto other = static_cast<Vertex>(random.below(points.vertices()));
        if (p == other) continue;
        const PackedNeighbor q = edge_between(points, p, other);
        // The check for occluding edges may be skipped if none occludes the new edge.
        const bool fresh = hidden(points, p, want[p], q) || random.below(2);
        const Edges before = want[p];
        want[p] = with_edge(points, p, before, q, fresh, room);
        graph.add(p, q, fresh, distances);
        CHECK(edges_of(graph, p) == want[p]);
        const bool there = std::find(before.begin(), before.end(), q) != before.end();
        refused += want[p] == before && !there;
        displaced += want[p].size() < before.size();
        out_of_room += static_cast<int64_t>(before.size()) == room && !there;
      }
      CHECK(all_edges(graph) == want);
    }
  });
  CHECK(refused > 100);
  CHECK(displaced > 10);
  CHECK(out_of_room > 100);
}

TEST(add_edge_without_occlusion_check_is_kept) {
  const std::vector<float> x = {0, 1, 2};
  const PointSet points(x.data(), 3, 1, Metric::kEuclidean);
  const Distances distances(points);
  DraftGraph graph(3, 2);
  graph.add(0, pack_neighbor(1, 1), true, distances);
  graph.add(0, pack_neighbor(4, 2), true, distances);
  CHECK((edges_of(graph, 0) == Edges{pack_neighbor(1, 1)}));
  graph.add(0, pack_neighbor(4, 2), false, distances);
  CHECK((edges_of(graph, 0) == Edges{pack_neighbor(1, 1), pack_neighbor(4, 2)}));
}

TEST(add_edge_at_distance_0_occludes_nothing) {
  // The squared distances are 0, one and three times the smallest float.
  const std::vector<float> x = {0, 2e-23F, 6e-23F};
  const PointSet points(x.data(), 3, 1, Metric::kEuclidean);
  const Distances distances(points);
  CHECK_EQ(points.vertices(), 3);
  CHECK_EQ(distances.between(0, 1), 0.0F);
  CHECK(distances.between(1, 2) < distances.between(0, 2));
  const Edges both = {pack_neighbor(0, 1), pack_neighbor(distances.between(0, 2), 2)};
  CHECK(edges_of(naive_draft(points), 0) == both);
  DraftGraph graph(3, 2);
  graph.assign(0, both, distances);
  CHECK(edges_of(graph, 0) == both);
  for (const bool nearest_first : {true, false}) {
    DraftGraph added(3, 2);
    added.add(0, both[!nearest_first], true, distances);
    added.add(0, both[nearest_first], true, distances);
    CHECK(edges_of(added, 0) == both);
  }
}

TEST(truncated_graph_keeps_shortest_edges) {
  Random random(5);
  const Cloud cloud = exact_cloud(Metric::kEuclidean, 50, 3, random);
  const PointSet points = cloud.points();
  const DraftGraph draft = naive_draft(points);
  int64_t cut = 0;
  for (const int64_t limit : {1, 2, 4, 100}) {
    const Graph graph = draft.truncated(limit);
    CHECK_EQ(graph.vertices(), points.vertices());
    CHECK_EQ(graph.first_edge.back(), static_cast<int64_t>(graph.target.size()));
    for (Vertex v = 0; v < points.vertices(); ++v) {
      const Edges edges = edges_of(draft, v);
      std::vector<Vertex> want;
      for (const PackedNeighbor edge : edges)
        if (static_cast<int64_t>(want.size()) < limit) want.push_back(vertex_of(edge));
      CHECK(targets_of(graph, v) == want);
      cut += want.size() < edges.size();
    }
  }
  CHECK(cut > 20);
  CHECK_EQ(DraftGraph(0, 1).truncated(3).vertices(), int64_t{0});
}

TEST(add_all_edges_applies_occlusion_to_all_pairs) {
  for_exact_clouds([](const Cloud& cloud, Random&) {
    const PointSet points = cloud.points();
    const std::vector<Edges> want = naive_edges(points);
    CHECK(all_edges(naive_draft(points)) == want);
    for (const auto& pool : parallel_pools()) CHECK(all_edges(naive_draft(points, *pool)) == want);
  });
}

TEST(add_all_edges_lets_every_walk_arrive) {
  for_exact_clouds([](const Cloud& cloud, Random&) {
    const PointSet points = cloud.points();
    const Graph graph = naive_draft(points).truncated(points.vertices());
    const auto neighbors_of = [&](Vertex v) { return targets_of(graph, v); };
    for (Vertex start = 0; start < points.vertices(); start += 3)
      for (Vertex target = 0; target < points.vertices(); ++target)
        CHECK_EQ(walk_downhill(points, start, target, neighbors_of), target);
  });
}

TEST(traverse_add_on_complete_graph_adds_nothing) {
  for_exact_clouds([](const Cloud& cloud, Random&) {
    const PointSet points = cloud.points();
    DraftGraph graph = naive_draft(points);
    const std::vector<Edges> before = all_edges(graph);
    BuildStats stats;
    traverse_add(points, {.success_rate = 1}, SerialPool(), kNobodyAsks, graph, stats);
    CHECK_EQ(stats.build_success_rate, 1.0);
    CHECK(all_edges(graph) == before);
  });
}

TEST(add_edges_of_exact_lists_adds_both_directions) {
  for_exact_clouds([](const Cloud& cloud, Random&) {
    const PointSet points = cloud.points();
    const int64_t count = points.vertices();
    for (const int64_t k : {1, 3, 7, 100}) {
      for (const int64_t room : {2, 100}) {
        std::vector<Edges> want(count);
        for (Vertex p = 0; p < count; ++p) {
          for (Vertex q = 0; q < count; ++q)
            if (q != p) want[p].push_back(edge_between(points, p, q));
          std::sort(want[p].begin(), want[p].end());
          if (static_cast<int64_t>(want[p].size()) > k) want[p].resize(k);
          want[p] = pruned(points, p, want[p], room);
        }
        std::vector<Edges> both = want;
        for (Vertex p = 0; p < count; ++p)
          for (const PackedNeighbor q : want[p]) both[vertex_of(q)].push_back(pack_neighbor(sq_dist_of(q), p));
        for (Vertex p = 0; p < count; ++p) both[p] = pruned(points, p, both[p], room);
        DraftGraph graph(count, room);
        BuildStats stats;
        const fanng::NearLists lists = fanng::exact_lists(points, k, SerialPool(), stats);
        add_edges_of(lists, points, SerialPool(), graph, stats);
        CHECK(all_edges(graph) == both);
        CHECK(count < 2 || stats.distance_computations > 0);
      }
    }
  });
}

TEST(merge_equals_assign_of_all_candidates) {
  int64_t dropped = 0;
  for_exact_clouds([&](const Cloud& cloud, Random& random) {
    const PointSet points = cloud.points();
    const fanng::Distances distances(points);
    const int64_t count = points.vertices();
    for (const int64_t room : {2, 5, 100}) {
      for (Vertex p = 0; p < count; ++p) {
        Edges own, others;
        for (Vertex q = 0; q < count; ++q) {
          if (q == p) continue;
          if (random.below(2) == 0) own.push_back(edge_between(points, p, q));
          if (random.below(3) == 0) others.push_back(edge_between(points, p, q));
        }
        std::sort(own.begin(), own.end());
        std::sort(others.begin(), others.end());
        DraftGraph merged(count, room), assigned(count, room);
        merged.assign(p, own, distances);
        Edges all = edges_of(merged, p);
        all.insert(all.end(), others.begin(), others.end());
        std::sort(all.begin(), all.end());
        all.erase(std::unique(all.begin(), all.end()), all.end());
        const int64_t computed = assigned.assign(p, all, distances);
        CHECK(merged.merge(p, others, distances) <= computed);
        CHECK(edges_of(merged, p) == edges_of(assigned, p));
        dropped += all.size() > edges_of(merged, p).size();
      }
    }
  });
  CHECK(dropped > 100);
}

TEST(add_edges_of_moved_points_measures_and_prunes_again) {
  int64_t changed = 0;
  for_exact_clouds([&](const Cloud& cloud, Random& random) {
    Cloud moved = cloud;
    if (cloud.metric == Metric::kCosine) {
      // Some rows become duplicates, others stop being duplicates.
      for (int64_t i = 0; i < cloud.count / 2; ++i) {
        const float* const from = cloud.row(random.below(cloud.count));
        std::copy_n(from, cloud.depth, moved.x.begin() + random.below(cloud.count) * cloud.depth);
      }
    } else {
      for (float& x : moved.x) x += static_cast<float>(random.below(3) == 0);
    }
    const PointSet before = cloud.points(), after = moved.points();
    const Graph old = naive_draft(before).truncated(4);
    const int64_t length = std::min<int64_t>(random.below(4), before.vertices() - 1);  // of lists of any others
    std::vector<Vertex> lists;
    for (Vertex v = 0; v < before.vertices(); ++v)
      for (int64_t n = 0; n < length; ++n)
        lists.push_back((v + 1 + random.below(before.vertices() - 1)) % before.vertices());

    // Candidates are rows that shared a vertex, or whose vertices had an edge or were listed.
    std::vector<Edges> want(after.vertices());
    for (int64_t i = 0; i < cloud.count; ++i) {
      for (int64_t j = 0; j < cloud.count; ++j) {
        std::vector<Vertex> targets = targets_of(old, before.vertex_of(i));
        const auto list = lists.begin() + before.vertex_of(i) * length;
        targets.insert(targets.end(), list, list + length);
        const bool linked = before.vertex_of(i) == before.vertex_of(j) ||
                            std::find(targets.begin(), targets.end(), before.vertex_of(j)) != targets.end();
        const Vertex p = after.vertex_of(i), q = after.vertex_of(j);
        if (linked && p != q) want[p].push_back(edge_between(after, p, q));
      }
    }
    for (const int64_t room : {3, 100}) {
      std::vector<Edges> kept;
      for (Vertex p = 0; p < after.vertices(); ++p) kept.push_back(pruned(after, p, want[p], room));
      for (const auto& pool : parallel_pools()) {
        DraftGraph graph(after.vertices(), room);
        BuildStats stats;
        add_edges_of({old, before, lists.data(), length}, after, *pool, graph, stats);
        CHECK(all_edges(graph) == kept);
      }
    }
    changed += before.vertices() != after.vertices();
  });
  CHECK(changed > 5);
}

TEST(add_edges_of_same_points_copies_graph) {
  for_exact_clouds([](const Cloud& cloud, Random&) {
    const PointSet points = cloud.points();
    const DraftGraph naive = naive_draft(points);
    DraftGraph graph(points.vertices(), points.vertices());
    BuildStats stats;
    const Graph same = naive.truncated(points.vertices());
    add_edges_of({same, points}, points, SerialPool(), graph, stats);
    CHECK(all_edges(graph) == all_edges(naive));
  });
}

TEST(add_edges_to_found_adds_both_directions) {
  int64_t changed = 0;
  for_exact_clouds([&](const Cloud& cloud, Random& random) {
    const PointSet points = cloud.points();
    const int64_t count = points.vertices();
    DraftGraph sparse(count, 3);
    for (Vertex p = 0; p < count; ++p) sparse.assign(p, random_candidates(points, p, random), Distances(points));
    for (const int64_t effort : {2, 10, 1000}) {
      for (const int64_t k : {1, 4, 100}) {
        // The expected search result, in a graph with the same edges.
        const Graph graph_before = sparse.truncated(3);
        fanng::SearchSpace space(count);
        std::vector<Edges> want(count), both;
        for (Vertex p = 0; p < count; ++p) {
          Edges found = space.search(graph_before, points, points.vector(p), {&p, 1}, effort);
          std::erase_if(found, [&](PackedNeighbor q) { return vertex_of(q) == p; });
          std::sort(found.begin(), found.end());
          if (static_cast<int64_t>(found.size()) > k) found.resize(k);
          const Edges before = edges_of(sparse, p);
          found.insert(found.end(), before.begin(), before.end());
          want[p] = pruned(points, p, found, 3);
        }
        both = want;
        for (Vertex p = 0; p < count; ++p)
          for (const PackedNeighbor q : want[p]) both[vertex_of(q)].push_back(pack_neighbor(sq_dist_of(q), p));
        for (Vertex p = 0; p < count; ++p) both[p] = pruned(points, p, both[p], 3);
        for (const auto& pool : parallel_pools()) {
          DraftGraph graph = sparse;
          BuildStats stats;
          add_edges_to_found(points, k, effort, *pool, graph, stats);
          CHECK(all_edges(graph) == both);
          CHECK(stats.distance_computations >= count);
          changed += all_edges(graph) != all_edges(sparse);
        }
      }
    }
  });
  CHECK(changed > 100);
}

TEST(nearby_order_is_a_permutation) {
  for_exact_clouds([](const Cloud& cloud, Random& random) {
    const PointSet points = cloud.points();
    DraftGraph draft(points.vertices(), 2);
    for (Vertex p = 0; p < points.vertices(); p += 2)
      draft.assign(p, random_candidates(points, p, random), Distances(points));
    std::vector<Vertex> order = nearby_order(draft.truncated(2));
    CHECK_EQ(static_cast<int64_t>(order.size()), points.vertices());
    std::sort(order.begin(), order.end());
    for (Vertex v = 0; v < order.size(); ++v) CHECK_EQ(order[v], v);
  });
  CHECK(fanng::nearby_order(Graph()).empty());
}
