#include "fanng/near_lists.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <utility>

#include "core/random.h"
#include "cpu/engine/knn.h"
#include "fanng/draft_graph.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kMaxLeaf = 2048;
constexpr int64_t kFirstRounds = 6, kMoreRounds = 2;
constexpr int64_t kMaxRefinements = 4;
constexpr double kEnoughRecall = 0.985;
constexpr int64_t kHops = 30;       // neighbors whose neighbors are compared, per direction
constexpr float kSlack = 1.00001F;  // tiles and row kernels round differently
constexpr int64_t kVerticesPerChunk = 64;
constexpr uint64_t kFirstDraw = uint64_t{1} << 61;  // beyond the draws of traversals

// The engine within a leaf, which is the task of one thread.
class LeafPool final : public cpu::ThreadPool {
 public:
  explicit LeafPool(const cpu::ThreadPool& whole) : whole_(whole) {}
  int64_t count() const override { return 1; }
  void run(int64_t workers, const std::function<void(int64_t)>& body) const override {
    for (int64_t worker = 0; worker < workers; ++worker) body(worker);
  }
  bool cancelled() const override { return whole_.cancelled(); }

 private:
  const cpu::ThreadPool& whole_;
};

// Merges `found`, sorted, into an ascending list, without duplicates.
void merge(const std::vector<PackedNeighbor>& found, PackedNeighbor* list, int64_t length,
           std::vector<PackedNeighbor>& scratch) {
  scratch.resize(length + found.size());
  std::merge(list, list + length, found.begin(), found.end(), scratch.begin());
  const auto end = std::unique(scratch.begin(), scratch.end());
  std::copy_n(scratch.begin(), std::min(length, static_cast<int64_t>(end - scratch.begin())), list);
}

// The vertices in an order in which leaves, `leaves` equal ranges, hold near ones. `leaves` is a power of 2.
void split_into_leaves(const PointSet& points, int64_t leaves, uint64_t seed, const cpu::ThreadPool& pool,
                       std::vector<Vertex>& order) {
  const auto count = static_cast<int64_t>(order.size());
  const int64_t stride = points.stride();
  const auto& kernel = cpu::kernels<cpu::RowKernels<float>>();
  struct Placed {
    float projection;
    Vertex vertex;
    bool operator<(const Placed& other) const {
      return projection != other.projection ? projection < other.projection : vertex < other.vertex;
    }
  };
  std::vector<Placed> placed(count);
  for (int64_t ranges = 1; ranges < leaves; ranges *= 2) {
    cpu::Buffer<float> direction(ranges * stride);
    const auto first_of = [&](int64_t range) { return count * range / ranges; };
    for (int64_t range = 0; range < ranges; ++range) {
      const int64_t first = first_of(range), size = first_of(range + 1) - first;
      const uint64_t draw = kFirstDraw + 2 * (ranges + range);
      const Vertex a = random_vertex(random_bits(seed, draw), size);
      Vertex b = random_vertex(random_bits(seed, draw + 1), size - 1);
      b += b >= a;
      const float *x = points.vector(order[first + a]), *y = points.vector(order[first + b]);
      for (int64_t k = 0; k < stride; ++k) direction[range * stride + k] = y[k] - x[k];
    }
    parallel_chunks(pool, ranges, 1, [&](int64_t, int64_t range, int64_t) {
      const int64_t first = first_of(range), last = first_of(range + 1);
      const float* const line = direction.get() + range * stride;
      for (int64_t i = first; i < last; ++i) placed[i] = {kernel.dot(points.vector(order[i]), line, stride), order[i]};
      const int64_t middle = count * (2 * range + 1) / (2 * ranges);
      std::nth_element(placed.begin() + first, placed.begin() + middle, placed.begin() + last);
      for (int64_t i = first; i < last; ++i) order[i] = placed[i].vertex;
    });
  }
}

// Merges the lists of all pairs within each leaf into `lists`.
void compare_within_leaves(const PointSet& points, int64_t leaves, const std::vector<Vertex>& order,
                           const cpu::ThreadPool& pool, NearLists& lists, BuildStats& stats) {
  const auto count = static_cast<int64_t>(order.size());
  const int64_t stride = points.stride(), length = lists.length;
  const Similarity kind = points.kind();
  const Distances distances(points);
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, leaves, 1, [&](int64_t, int64_t leaf, int64_t) {
    const int64_t first = count * leaf / leaves, size = count * (leaf + 1) / leaves - first;
    const Vertex* const member = order.data() + first;
    cpu::Buffer<float> rows(size * stride);
    std::vector<float> similarity(size * length), floor_key(size);
    std::vector<int64_t> index(size * length);
    for (int64_t i = 0; i < size; ++i) {
      std::copy_n(points.vector(member[i]), stride, rows.get() + i * stride);
      const PackedNeighbor last = lists.begin(member[i])[length - 1];
      const float farthest = sq_dist_of(last) * kSlack;
      floor_key[i] = last == kNoNeighbor        ? -std::numeric_limits<float>::infinity()
                     : kind == Similarity::kDot ? 1 - farthest / 2 - 1e-6F
                                                : -farthest;
    }
    cpu::knn<float>(kind, {rows.get(), size}, nullptr, stride, length, true, LeafPool(pool), similarity.data(),
                    index.data(), floor_key.data());
    std::vector<Vertex> batch;
    std::vector<float> sq_dist(length);
    std::vector<PackedNeighbor> found, scratch;
    int64_t computed_here = size * (size - 1) / 2;
    for (int64_t i = 0; i < size; ++i) {
      batch.clear();
      for (int64_t n = 0; n < length && index[i * length + n] >= 0; ++n) batch.push_back(member[index[i * length + n]]);
      const auto found_count = static_cast<int64_t>(batch.size());
      distances.to(points.vector(member[i]), batch.data(), found_count, sq_dist.data());
      computed_here += found_count;
      found.clear();
      for (int64_t n = 0; n < found_count; ++n) found.push_back(pack_neighbor(sq_dist[n], batch[n]));
      std::sort(found.begin(), found.end());
      merge(found, lists.begin(member[i]), length, scratch);
    }
    computed += computed_here;
  });
  stats.distance_computations += computed;
}

// Compares each vertex with the kHops nearest of its kHops nearest, and of as many vertices whose lists begin with it.
//
// `near` has the beginnings of the lists in the last pass, or is empty. Two vertices that the same entries led to then
// are not compared again.
void refine(const PointSet& points, const std::vector<Vertex>& order, const cpu::ThreadPool& pool, NearLists& lists,
            std::vector<Vertex>& near, BuildStats& stats) {
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
  struct Space {
    std::vector<uint32_t> seen;
    uint32_t stamp = 0;
  };
  std::vector<std::unique_ptr<Space>> spaces(pool.count());
  std::atomic<int64_t> computed{0};
  parallel_chunks(pool, count, kVerticesPerChunk, [&](int64_t worker, int64_t begin, int64_t end) {
    if (!spaces[worker]) spaces[worker] = std::make_unique<Space>(Space{std::vector<uint32_t>(count, 0)});
    std::vector<uint32_t>& seen = spaces[worker]->seen;
    std::vector<Vertex> batch(2 * hops * hops + hops + 1);
    std::vector<float> sq_dist(2 * hops * hops);
    std::vector<PackedNeighbor> found, scratch;
    int64_t computed_here = 0;
    for (int64_t i = begin; i < end; ++i) {
      const Vertex p = order[i];
      const uint32_t stamp = ++spaces[worker]->stamp;
      PackedNeighbor* const list = lists.begin(p);
      seen[p] = stamp;
      for (int64_t n = 0; n < length && list[n] != kNoNeighbor; ++n) seen[vertex_of(list[n])] = stamp;
      int64_t fresh = 0;
      const auto add = [&](Vertex w, bool wanted) {
        batch[fresh] = w;
        const bool adds = wanted && seen[w] != stamp;
        fresh += adds;
        seen[w] = adds ? stamp : seen[w];
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
      merge(found, list, length, scratch);
    }
    computed += computed_here;
  });
  stats.distance_computations += computed;
}

}  // namespace

NearLists exact_lists(const PointSet& points, int64_t length, const cpu::ThreadPool& pool, BuildStats& stats) {
  const Distances distances(points);
  const int64_t count = points.vertices();
  length = std::max<int64_t>(std::min(length, count - 1), 0);
  NearLists lists{length, std::vector<PackedNeighbor>(count * length, kNoNeighbor)};
  if (length < 1) return lists;
  std::vector<int64_t> index(count * length);
  {
    std::vector<float> similarity(count * length);
    const auto find = [&](int64_t) {
      cpu::knn<float>(points.kind(), {points.data(), count}, nullptr, points.stride(), length, true, pool,
                      similarity.data(), index.data());
    };
    // A single worker would run on the calling thread, which has to poll.
    pool.count() == 1 ? pool.run(1, find) : find(0);
  }
  parallel_chunks(pool, count, kVerticesPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<Vertex> batch;
    std::vector<float> sq_dist(length);
    for (auto p = static_cast<Vertex>(begin); p < static_cast<Vertex>(end); ++p) {
      batch.clear();
      for (int64_t n = 0; n < length && index[p * length + n] >= 0; ++n)
        batch.push_back(static_cast<Vertex>(index[p * length + n]));
      const auto found = static_cast<int64_t>(batch.size());
      distances.to(points.vector(p), batch.data(), found, sq_dist.data());
      for (int64_t n = 0; n < found; ++n) lists.begin(p)[n] = pack_neighbor(sq_dist[n], batch[n]);
      std::sort(lists.begin(p), lists.begin(p) + found);
    }
  });
  stats.distance_computations += count * (count - 1) / 2 + count * length;
  return lists;
}

NearLists leaf_lists(const PointSet& points, int64_t length, uint64_t seed, const MeasureRecall& recall,
                     const cpu::ThreadPool& pool, BuildStats& stats) {
  const int64_t count = points.vertices();
  length = std::max<int64_t>(std::min(length, count - 1), 0);
  NearLists lists{length, std::vector<PackedNeighbor>(count * length, kNoNeighbor)};
  if (length < 1) return lists;
  int64_t leaves = 1;
  while (count > leaves * kMaxLeaf) leaves *= 2;
  std::vector<Vertex> order(count);
  std::iota(order.begin(), order.end(), Vertex{0});
  int64_t round = 0;
  const auto compare_rounds = [&](int64_t rounds) {
    for (; rounds > 0; --rounds, ++round) {
      split_into_leaves(points, leaves, random_bits(seed, kFirstDraw + round), pool, order);
      compare_within_leaves(points, leaves, order, pool, lists, stats);
    }
  };
  if (leaves == 1) {
    compare_rounds(1);  // all pairs
    return lists;
  }
  compare_rounds(kFirstRounds);
  std::vector<Vertex> near;
  for (int64_t pass = 0; pass < kMaxRefinements; ++pass) {
    if (pass > 0) compare_rounds(kMoreRounds);
    refine(points, order, pool, lists, near, stats);
    cpu::throw_if_cancelled(pool);
    if (recall(lists) >= kEnoughRecall) break;
  }
  return lists;
}

}  // namespace hardmine::fanng
