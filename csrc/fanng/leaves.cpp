#include "fanng/leaves.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <span>

#include "core/random.h"
#include "cpu/engine/knn.h"
#include "fanng/draft_graph.h"
#include "fanng/seen_vertices.h"
#include "fanng/threads.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kSamplesPerCenter = 32;           // rows from which a center is computed
constexpr int64_t kIterations = 3;                  // of k-means
constexpr int64_t kRowsPerChunk = 8192;             // rows that are assigned to centers at a time
constexpr int64_t kLocks = 1024;                    // of lists, each for the vertices of one remainder
constexpr float kSlack = 1.00001F;                  // tiles and row kernels round differently
constexpr uint64_t kFirstDraw = uint64_t{1} << 61;  // beyond the draws of traversals

// Calls write(row, n, center) for the n-th nearest center of each row, n < k. `rows` are rows of the points.
template <class Write>
void nearest_centers(const PointSet& points, const Matrix<float>& rows, const Matrix<float>& centers, int64_t k,
                     const cpu::ThreadPool& pool, BuildStats& stats, const Write& write) {
  const int64_t stride = points.stride();
  parallel_chunks(pool, rows.count, kRowsPerChunk, [&](int64_t, int64_t begin, int64_t end) {
    std::vector<float> similarity((end - begin) * k);
    std::vector<int64_t> index((end - begin) * k);
    cpu::knn<float>(points.kind(), {rows.x + begin * stride, end - begin}, &centers, stride, k, false, OwnThread(pool),
                    similarity.data(), index.data());
    for (int64_t i = begin; i < end; ++i)
      for (int64_t n = 0; n < k; ++n) write(i, n, index[(i - begin) * k + n]);
  });
  cpu::throw_if_cancelled(pool);
  stats.distance_computations += rows.count * centers.count;
}

// The centers of k-means over a sample, [centers, stride]. Those of unit rows are unit rows.
cpu::Buffer<float> k_means(const PointSet& points, int64_t centers, uint64_t seed, const cpu::ThreadPool& pool,
                           BuildStats& stats) {
  const int64_t count = points.vertices(), stride = points.stride(),
                size = std::min(count, kSamplesPerCenter * centers);
  cpu::Buffer<float> sample(size * stride), center(centers * stride);
  std::vector<Vertex> order(count);
  std::iota(order.begin(), order.end(), Vertex{0});
  for (int64_t i = 0; i < size; ++i) {
    std::swap(order[i], order[i + random_vertex(random_bits(seed, kFirstDraw + i), count - i)]);
    std::copy_n(points.vector(order[i]), stride, sample.get() + i * stride);
  }
  std::copy_n(sample.get(), centers * stride, center.get());
  std::vector<int64_t> nearest(size);
  for (int64_t iteration = 0; iteration < kIterations; ++iteration) {
    nearest_centers(points, {sample.get(), size}, {center.get(), centers}, 1, pool, stats,
                    [&](int64_t i, int64_t, int64_t found) { nearest[i] = found; });
    std::vector<double> sum(centers * stride, 0);
    std::vector<int64_t> members(centers, 0);
    for (int64_t i = 0; i < size; ++i) {
      if (nearest[i] < 0) continue;
      ++members[nearest[i]];
      for (int64_t k = 0; k < stride; ++k) sum[nearest[i] * stride + k] += sample.get()[i * stride + k];
    }
    for (int64_t c = 0; c < centers; ++c) {
      const double* const total = sum.data() + c * stride;
      const double norm = std::sqrt(std::inner_product(total, total + stride, total, 0.0));
      const double divisor = points.kind() == Similarity::kDot ? norm : static_cast<double>(members[c]);
      if (!(divisor > 0)) continue;  // without members a center stays where it is
      for (int64_t k = 0; k < stride; ++k) center.get()[c * stride + k] = static_cast<float>(total[k] / divisor);
    }
  }
  return center;
}

// Splits a range of vertices into halves until none has more than `max_leaf`. Calls leaf(begin, end) for each in turn.
template <class Leaf>
void halve(const PointSet& points, Vertex* begin, Vertex* end, int64_t max_leaf, uint64_t seed, const Leaf& leaf) {
  const int64_t size = end - begin, stride = points.stride();
  if (size <= max_leaf) {
    leaf(begin, end);
    return;
  }
  const uint64_t a = random_bits(seed, 0) % size, b = (a + 1 + random_bits(seed, 1) % (size - 1)) % size;
  const float *x = points.vector(begin[a]), *y = points.vector(begin[b]);
  std::vector<float> line(stride);
  for (int64_t k = 0; k < stride; ++k) line[k] = y[k] - x[k];
  const auto& kernel = cpu::kernels<cpu::RowKernels<float>>();
  std::vector<std::pair<float, Vertex>> placed;
  for (const Vertex* v = begin; v != end; ++v)
    placed.push_back({kernel.dot(points.vector(*v), line.data(), stride), *v});
  std::nth_element(placed.begin(), placed.begin() + size / 2, placed.end());
  std::transform(placed.begin(), placed.end(), begin, [](const auto& one) { return one.second; });
  halve(points, begin, begin + size / 2, max_leaf, random_bits(seed, 2), leaf);
  halve(points, begin + size / 2, end, max_leaf, random_bits(seed, 3), leaf);
}

}  // namespace

NearCenters near_centers(const PointSet& points, uint64_t seed, const LeafSizes& sizes, const cpu::ThreadPool& pool,
                         BuildStats& stats) {
  const int64_t centers = std::max(points.vertices() / sizes.per_center, kLeavesPerVertex);
  const cpu::Buffer<float> center = k_means(points, centers, seed, pool, stats);
  NearCenters near(points.vertices());
  nearest_centers(points, {points.data(), points.vertices()}, {center.get(), centers}, kLeavesPerVertex, pool, stats,
                  [&](int64_t v, int64_t n, int64_t found) {
                    near[v][n] = found < 0 ? ~static_cast<uint32_t>(v) : static_cast<uint32_t>(found);
                  });
  return near;
}

Leaves leaves_around(const PointSet& points, const NearCenters& centers, uint64_t seed, const LeafSizes& sizes) {
  const auto count = std::ssize(centers);
  std::vector<int64_t> first_member;
  for (int64_t v = 0; v < count; ++v) {
    for (const uint32_t c : centers[v]) {
      if (c == ~static_cast<uint32_t>(v)) continue;
      if (c + 2 > first_member.size()) first_member.resize(c + 2, 0);
      ++first_member[c + 1];
    }
  }
  std::partial_sum(first_member.begin(), first_member.end(), first_member.begin());
  Leaves leaves;
  leaves.of = centers;
  leaves.member.resize(first_member.back());
  std::vector<int64_t> next(first_member.begin(), first_member.end() - 1);
  for (int64_t v = 0; v < count; ++v)
    for (const uint32_t c : centers[v])
      if (c != ~static_cast<uint32_t>(v)) leaves.member[next[c]++] = static_cast<Vertex>(v);
  Vertex* const member = leaves.member.data();
  for (int64_t c = 0; c + 1 < std::ssize(first_member); ++c) {
    halve(points, member + first_member[c], member + first_member[c + 1], sizes.max_leaf, random_bits(seed, c),
          [&](Vertex* begin, Vertex* end) {
            std::sort(begin, end);
            for (const Vertex* v = begin; v != end; ++v) {
              const auto slot = std::find(centers[*v].begin(), centers[*v].end(), c) - centers[*v].begin();
              leaves.of[*v][slot] = static_cast<uint32_t>(leaves.count());
            }
            leaves.first.push_back(end - member);
          });
  }
  return leaves;
}

void compare_within_leaves(const PointSet& points, const Leaves& leaves, const cpu::ThreadPool& pool, NearLists& lists,
                           BuildStats& stats) {
  const int64_t depth = points.stored_depth(), length = lists.length;
  const Similarity kind = points.kind();
  const Distances distances(points);
  std::vector<std::mutex> locks(kLocks);  // two leaves may share a vertex
  std::atomic<int64_t> computed{0};
  std::vector<SeenVertices> seen_by(pool.count());
  parallel_chunks(pool, leaves.count(), 1, [&](int64_t worker, int64_t leaf, int64_t) {
    const int64_t size = leaves.first[leaf + 1] - leaves.first[leaf];
    const Vertex* const member = leaves.member.data() + leaves.first[leaf];
    cpu::Buffer<float> rows(size * depth);
    std::vector<float> floor_key(size);
    for (int64_t i = 0; i < size; ++i) {
      std::copy_n(points.vector(member[i]), depth, rows.get() + i * depth);
      const PackedNeighbor last = [&] {
        const std::lock_guard lock(locks[member[i] % kLocks]);
        return lists.begin(member[i])[length - 1];
      }();
      const float farthest = sq_dist_of(last) * kSlack;
      floor_key[i] = last == kNoNeighbor        ? -std::numeric_limits<float>::infinity()
                     : kind == Similarity::kDot ? 1 - farthest / 2 - 1e-6F
                                                : -farthest;
    }
    SeenVertices& seen = seen_by[worker];
    if (seen.empty()) seen = SeenVertices(points.vertices());
    std::vector<Vertex> batch;
    std::vector<float> sq_dist(length);
    std::vector<PackedNeighbor> found, scratch;
    const auto merge = [&](int64_t i, std::span<const Neighbor<float>> neighbors) {
      // Most of them are in the list already, from another leaf that both share.
      seen.clear();
      PackedNeighbor last;
      {
        const std::lock_guard lock(locks[member[i] % kLocks]);
        const PackedNeighbor* const list = lists.begin(member[i]);
        for (int64_t n = 0; n < length && list[n] != kNoNeighbor; ++n) seen.add(vertex_of(list[n]));
        last = list[length - 1];
      }
      batch.clear();
      for (const auto& [key, index] : neighbors)
        if (const Vertex other = member[index]; seen.add(other)) batch.push_back(other);
      distances.to(points.vector(member[i]), batch.data(), std::ssize(batch), sq_dist.data());
      found.clear();
      for (size_t n = 0; n < batch.size(); ++n)
        if (const PackedNeighbor other = pack_neighbor(sq_dist[n], batch[n]); other < last) found.push_back(other);
      if (found.empty()) return;
      std::sort(found.begin(), found.end());
      const std::lock_guard lock(locks[member[i] % kLocks]);
      merge_into(found, lists.begin(member[i]), length, scratch);
    };
    cpu::knn_unordered<float>(kind, {rows.get(), size}, depth, length, floor_key.data(), OwnThread(pool), merge);
    computed += size * (size - 1) / 2;
  });
  stats.distance_computations += computed;
}

}  // namespace hardmine::fanng
