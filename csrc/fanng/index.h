// A FANNG index: the points, the graph, and searches over it. Torch-free.
//
// Harwood and Drummond, "FANNG: Fast Approximate Nearest Neighbour Graphs", CVPR 2016; used for mining as in Smart
// Mining (Harwood et al., ICCV 2017) section 3.2. docs/graph-index.md says what of it is reconstructed.
//
// Complexity, for n rows of depth D and M distance computations a search: traverse_add takes about 50 n traversals of
// O(path length x degree x D); a search takes O(M D) time and more for its queue, and O(n) memory for every search that
// runs at the same time; an index takes O(n (D + degree)) memory. An Index is immutable: any number of threads may
// search it at the same time. Constructors and searches throw std::invalid_argument on bad input, before any long work,
// and what the poll of their Threads throws.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fanng/build.h"
#include "fanng/search.h"

namespace hardmine::fanng {

enum class Seeding : uint8_t { kNothing, kAllEdges, kNearest };

// k results a query, nearest first; index -1 and distance NaN where there are no more. [queries, k]
struct Results {
  int64_t k;
  float* distance;
  int64_t* index;
};

class Index {
 public:
  // Builds the graph over vectors [count, depth]. `warm`, an index over as many rows, or null, seeds it in place of
  // `seeding`.
  Index(const float* vectors, int64_t count, int64_t depth, Metric metric, const BuildOptions& options, Seeding seeding,
        const Index* warm, const cpu::ThreadPool& pool, const BuildProgress& progress);

  // An index that was taken apart into vectors and graph. Throws std::invalid_argument where they don't fit together.
  Index(const float* vectors, int64_t count, int64_t depth, Metric metric, Graph graph, const BuildStats& stats);

  const PointSet& points() const { return points_; }
  const Graph& graph() const { return graph_; }
  const BuildStats& stats() const { return stats_; }

  // The rows nearest to each of `count` queries [count, depth]: `max_computations` distance computations each,
  // beginning at row start[i], or where `start` is null at the row nearest to the mean.
  void search(const float* queries, int64_t count, const int64_t* start, int64_t max_computations,
              const cpu::ThreadPool& pool, const Results& results) const;

  // The nearest other rows of rows [first, last), each search begun at its own row.
  void neighbors(int64_t first, int64_t last, int64_t max_computations, const cpu::ThreadPool& pool,
                 const Results& results) const;

 private:
  // Fills row `query` of results from what a search measured; `own`: the row to leave out, -1 for none.
  void report(std::vector<PackedNeighbor>& measured, int64_t own, float offset, int64_t query,
              const Results& results) const;
  template <class Body>
  void with_spaces(const cpu::ThreadPool& pool, int64_t count, const Body& body) const;
  Vertex central_vertex() const;

  PointSet points_;
  Graph graph_;
  BuildStats stats_;
  Vertex central_ = kNoVertex;
  // Spaces of searches that are over, for those to come.
  mutable std::mutex spaces_mutex_;
  mutable std::vector<std::unique_ptr<SearchSpace>> spaces_;
};

}  // namespace hardmine::fanng
