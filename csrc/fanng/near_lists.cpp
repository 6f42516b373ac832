#include "fanng/near_lists.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <utility>

#include "core/random.h"
#include "cpu/engine/knn.h"
#include "fanng/draft_graph.h"
#include "fanng/leaves.h"
#include "fanng/seen_vertices.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kMinCenters = 256;  // with fewer, there are hardly more pairs than leaves have
constexpr int64_t kMaxRefinements = 3;
constexpr double kEnoughRecall = 0.98;
constexpr int64_t kHops = 15;  // neighbors whose neighbors are compared, per direction
constexpr int64_t kVerticesPerChunk = 64;

// Compares each vertex with the kHops nearest of its kHops nearest, and of as many vertices whose lists begin with it,
// but not with those of its leaves.
//
// `near` has the beginnings of the lists in the last pass, or is empty. Two vertices that the same entries led to then
// are not compared again.
void refine(const PointSet& points, const Leaves& leaves, const std::vector<Vertex>& order, const cpu::ThreadPool& pool,
            NearLists& lists, std::vector<Vertex>& near, BuildStats& stats) {
  const int64_t count = points.vertices(), length = lists.length, hops = std::min(kHops, length);
  const Distances distances(points);
  // The lists' beginnings before this pass, which of them are new, and their reverses, where the new ones come first.
  const std::vector<Vertex> last = std::exchange(near, std::vector<Vertex>(count * hops));
  std::vector<uint8_t> is_new(count * hops, 1);
  for (Vertex v = 0; v < static_cast<Vertex>(count); ++v) {
    std::transform(lists.begin(v), lists.begin(v) + hops, near.begin() + v * hops, vertex_of);
    if (last.empty()) continue;
    // Old entries keep their order.
    const Vertex* old = last.data() + v * hops;
    const Vertex* const old_end = old + hops;
    for (int64_t n = v * hops; n < (v + 1) * hops && old != old_end; ++n) {
      is_new[n] = near[n] != *old;
      old += !is_new[n];
    }
  }
  std::vector<Vertex> reverse(count * hops);
  std::vector<int32_t> reverse_count(count, 0), new_reverse_count(count, 0);
  for (const bool fresh : {true, false}) {
    for (Vertex v = 0; v < static_cast<Vertex>(count); ++v) {
      for (int64_t n = v * hops; n < (v + 1) * hops; ++n) {
        const Vertex u = near[n];
        if (u == kNoVertex || (is_new[n] != 0) != fresh || reverse_count[u] == hops) continue;
        reverse[u * hops + reverse_count[u]++] = v;
        new_reverse_count[u] += fresh;
      }
    }
  }
  std::vector<SeenVertices> seen_by(pool.count());
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, count, kVerticesPerChunk, [&](int64_t worker, int64_t begin, int64_t end) {
    SeenVertices& seen = seen_by[worker];
    if (seen.empty()) seen = SeenVertices(count);
    std::vector<Vertex> batch(2 * hops * hops + hops + 1);
    std::vector<float> sq_dist(2 * hops * hops);
    std::vector<PackedNeighbor> found, scratch;
    int64_t computed_here = 0;
    for (int64_t i = begin; i < end; ++i) {
      const Vertex p = order[i];
      PackedNeighbor* const list = lists.begin(p);
      seen.clear();
      seen.add(p);
      for (int64_t n = 0; n < length && list[n] != kNoNeighbor; ++n) seen.add(vertex_of(list[n]));
      int64_t fresh = 0;
      const auto add = [&](Vertex w, bool wanted) {
        if (!wanted || !seen.add(w)) return;
        batch[fresh] = w;
        fresh += !leaves.share(p, w);
      };
      // Pairs that two old entries lead to were compared in the last pass.
      const auto gather = [&](Vertex u, bool all) {
        for (int64_t n = u * hops; n < (u + 1) * hops && near[n] != kNoVertex; ++n) add(near[n], all || is_new[n]);
      };
      for (int64_t n = p * hops; n < (p + 1) * hops && near[n] != kNoVertex; ++n) gather(near[n], is_new[n]);
      for (int64_t n = 0; n < reverse_count[p]; ++n) {
        const Vertex u = reverse[p * hops + n];
        const bool is_new_reverse = n < new_reverse_count[p];
        add(u, is_new_reverse);
        gather(u, is_new_reverse);
      }
      distances.to(points.vector(p), batch.data(), fresh, sq_dist.data());
      computed_here += fresh;
      const PackedNeighbor farthest = list[length - 1];
      found.clear();
      for (int64_t n = 0; n < fresh; ++n)
        if (const PackedNeighbor other = pack_neighbor(sq_dist[n], batch[n]); other < farthest) found.push_back(other);
      std::sort(found.begin(), found.end());
      merge_into(found, list, length, scratch);
    }
    computed += computed_here;
  });
  stats.distance_computations += computed;
}

// Makes the valid ones of `count` other vertices the list of p, which holds as many.
void set_list(const PointSet& points, const Distances& distances, Vertex p, const int64_t* others, int64_t count,
              std::vector<PackedNeighbor>& found, NearLists& lists) {
  std::vector<Vertex> batch;
  for (int64_t n = 0; n < count; ++n)
    if (others[n] >= 0 && others[n] != p) batch.push_back(static_cast<Vertex>(others[n]));
  std::vector<float> sq_dist(batch.size());
  distances.to(points.vector(p), batch.data(), std::ssize(batch), sq_dist.data());
  found.clear();
  for (size_t n = 0; n < batch.size(); ++n) found.push_back(pack_neighbor(sq_dist[n], batch[n]));
  std::sort(found.begin(), found.end());
  std::copy_n(found.begin(), std::min(lists.length, std::ssize(found)), lists.begin(p));
}

// Replaces the lists that are not full, of vertices whose leaves are small, by exact ones.
void complete(const PointSet& points, const cpu::ThreadPool& pool, NearLists& lists, BuildStats& stats) {
  std::vector<Vertex> short_of;
  for (Vertex v = 0; v < static_cast<Vertex>(points.vertices()); ++v)
    if (lists.begin(v)[lists.length - 1] == kNoNeighbor) short_of.push_back(v);
  const int64_t stride = points.stride(), k = lists.length + 1;  // with the vertex itself
  const Matrix<float> all{points.data(), points.vertices()};
  const Distances distances(points);
  parallel_chunks(pool, std::ssize(short_of), kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    cpu::Buffer<float> rows((end - begin) * stride);
    for (int64_t i = begin; i < end; ++i)
      std::copy_n(points.vector(short_of[i]), stride, rows.get() + (i - begin) * stride);
    std::vector<float> similarity((end - begin) * k);
    std::vector<int64_t> index((end - begin) * k);
    cpu::knn<float>(points.kind(), {rows.get(), end - begin}, &all, stride, k, false, OwnThread(pool),
                    similarity.data(), index.data());
    std::vector<PackedNeighbor> found;
    for (int64_t i = begin; i < end; ++i)
      set_list(points, distances, short_of[i], index.data() + (i - begin) * k, k, found, lists);
  });
  stats.distance_computations += std::ssize(short_of) * points.vertices();
}

}  // namespace

void merge_into(const std::vector<PackedNeighbor>& found, PackedNeighbor* list, int64_t length,
                std::vector<PackedNeighbor>& scratch) {
  scratch.resize(length + found.size());
  std::merge(list, list + length, found.begin(), found.end(), scratch.begin());
  const auto end = std::unique(scratch.begin(), scratch.end());
  std::copy_n(scratch.begin(), std::min(length, static_cast<int64_t>(end - scratch.begin())), list);
}

NearLists exact_lists(const PointSet& points, int64_t length, const cpu::ThreadPool& pool, BuildStats& stats) {
  const int64_t count = points.vertices();
  length = std::max<int64_t>(std::min(length, count - 1), 0);
  NearLists lists{length, std::vector<PackedNeighbor>(count * length, kNoNeighbor)};
  if (length < 1) return lists;
  std::vector<int64_t> index(count * length);
  {
    // The rows without padding, which would take its share of the time.
    const int64_t depth = points.stored_depth();
    cpu::Buffer<float> rows(count * depth);
    for (int64_t v = 0; v < count; ++v)
      std::copy_n(points.vector(static_cast<Vertex>(v)), depth, rows.get() + v * depth);
    std::vector<float> similarity(count * length);
    const auto find = [&](int64_t) {
      cpu::knn<float>(points.kind(), {rows.get(), count}, nullptr, depth, length, true, pool, similarity.data(),
                      index.data());
    };
    // A single worker would run on the calling thread, which has to poll.
    pool.count() == 1 ? pool.run(1, find) : find(0);
  }
  const Distances distances(points);
  parallel_chunks(pool, count, kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<PackedNeighbor> found;
    for (auto p = static_cast<Vertex>(begin); p < static_cast<Vertex>(end); ++p)
      set_list(points, distances, p, index.data() + p * length, length, found, lists);
  });
  stats.distance_computations += count * (count - 1) / 2 + count * length;
  return lists;
}

NearLists leaf_lists(const PointSet& points, int64_t length, uint64_t seed, const MeasureRecall& recall,
                     const cpu::ThreadPool& pool, BuildStats& stats, const LeafSizes& sizes) {
  const int64_t count = points.vertices();
  if (count < kMinCenters * sizes.per_center) return exact_lists(points, length, pool, stats);
  length = std::min(length, count - 1);
  NearLists lists{length, std::vector<PackedNeighbor>(count * length, kNoNeighbor)};
  const NearCenters centers = near_centers(points, random_bits(seed, 0), sizes, pool, stats);
  const Leaves leaves = leaves_around(points, centers, seed, sizes);
  compare_within_leaves(points, leaves, pool, lists, stats);
  complete(points, pool, lists, stats);
  // Vertices of one leaf in turn find each other's rows in the cache.
  std::vector<Vertex> order(count);
  std::iota(order.begin(), order.end(), Vertex{0});
  std::stable_sort(order.begin(), order.end(), [&](Vertex a, Vertex b) { return leaves.of[a][0] < leaves.of[b][0]; });
  std::vector<Vertex> near;
  for (int64_t pass = 0; pass < kMaxRefinements && recall(lists) < kEnoughRecall; ++pass) {
    refine(points, leaves, order, pool, lists, near, stats);
    cpu::throw_if_cancelled(pool);
  }
  return lists;
}

}  // namespace hardmine::fanng
