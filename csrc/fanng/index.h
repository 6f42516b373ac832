// A FANNG index: the points, the graph, and searches over it.
//
// Harwood and Drummond, "FANNG: Fast Approximate Nearest Neighbour Graphs", CVPR 2016; used for mining as in Smart
// Mining (Harwood et al., ICCV 2017) section 3.2. docs/graph-index.md lists what is reconstructed.
//
// Complexity for n rows of depth D and M distance computations per search: traverse_add takes about 50 n traversals of
// O(path length x degree x D). A search takes O(M D) time, plus that of its queue, and O(n) memory per concurrent
// search. An index takes O(n (D + degree)) memory. An Index is immutable: any number of threads may search it at the
// same time. Constructors and searches throw std::invalid_argument for bad input, before any long work, and what `poll`
// of their Threads throws.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "fanng/build.h"
#include "fanng/search.h"

namespace hardmine::fanng {

// The initial edges: none, all pairs, those to exact or to approximate nearest neighbors, or the quicker of the two.
enum class Seeding : uint8_t { kNothing, kAllEdges, kNearest, kLeaves, kAuto };

// Where a search ends: after a number of distance computations, or by its width; see search.h.
struct Limit {
  int64_t max_computations = 0;  // 0: by the width
  int64_t width = 0;
};

// Outputs [queries, k], nearest first, padded with index -1 and distance NaN.
inline constexpr int64_t kComputationsPerWidth = 10;  // about, in searches of limited width

struct Results {
  int64_t k;
  float* distance;
  int64_t* index;
};

class Index {
 public:
  // Builds the graph over vectors [count, depth]. Unless null, `warm`, an index of the same number of rows, replaces
  // `seeding`.
  Index(const float* vectors, int64_t count, int64_t depth, Metric metric, const BuildOptions& options, Seeding seeding,
        const Index* warm, const cpu::ThreadPool& pool, const BuildProgress& progress);

  // Builds the graph over changed rows from that of `before`: row i is row source[i] of it, or new if that is -1. The
  // index keeps no lists.
  Index(const Index& before, const float* vectors, int64_t count, const int64_t* source, const BuildOptions& options,
        const cpu::ThreadPool& pool);

  // Assembles an index from vectors and graph. Throws std::invalid_argument if they do not match.
  Index(const float* vectors, int64_t count, int64_t depth, Metric metric, Graph graph, std::vector<Vertex> lists,
        const BuildStats& stats);

  const PointSet& points() const { return points_; }
  const Graph& graph() const { return graph_; }
  const BuildStats& stats() const { return stats_; }
  // The lists that the build made: per vertex, list_length() near vertices.
  const std::vector<Vertex>& lists() const { return lists_; }
  int64_t list_length() const { return points_.vertices() == 0 ? 0 : std::ssize(lists_) / points_.vertices(); }
  // Whether the lists hold k other rows of every row, or all. Those of a dot index are of inverted rows.
  bool lists_hold(int64_t k) const {
    return points_.metric() != Metric::kDot &&
           list_length() >= std::min(k, std::max<int64_t>(points_.vertices() - 1, 1));
  }

  // Finds the rows nearest to queries [count, depth], among those that the filter allows. Each search starts at row
  // start[i], or at the starts of the graph if `start` is null. Widths below k are raised to k. With a filter, the
  // width counts allowed rows only. If a search that is limited by its width would measure more rows than the filter
  // leaves, all of these are scanned instead.
  void search(const float* queries, int64_t count, const int64_t* start, const Limit& limit, const RowFilter& filter,
              const cpu::ThreadPool& pool, const Results& results) const;

  // Finds the nearest other rows of rows row[0 .. count), as if these were new queries: a search starts at the starts
  // of the graph. distance[i] is that of the last neighbor of interest of row[i]; see displaced_if_alone.
  void search_held_out(const int64_t* row, const float* distance, int64_t count, const Limit& limit,
                       const cpu::ThreadPool& pool, const Results& results) const;

  // The nearest other rows of rows [first, last) in the lists of the build, which must hold k.
  void listed(int64_t first, int64_t last, const cpu::ThreadPool& pool, const Results& results) const;

  // Finds the nearest other rows of rows [first, last). Each search starts at its row.
  void neighbors(int64_t first, int64_t last, const Limit& limit, const cpu::ThreadPool& pool,
                 const Results& results) const;

 private:
  // Searches from `starts`. Returns at least the `wanted` nearest vertices found, ascending.
  std::vector<PackedNeighbor>& found_by(SearchSpace& space, const float* query, std::span<const Vertex> starts,
                                        const Limit& limit, int64_t wanted, Displaced displaced = {}) const;
  // The same among allowed vertices, which have at most `rows` rows, and are all among `remaining`.
  std::vector<PackedNeighbor>& found_allowed(SearchSpace& space, const float* query, std::span<const Vertex> starts,
                                             const Limit& limit, int64_t wanted, const AllowedRows& allowed,
                                             int64_t rows, std::span<const Vertex> remaining) const;
  // The starts of a search that is given none.
  std::vector<Vertex> starts_of(const Limit& limit) const;
  // Writes row `query` of the results from the vertices that a search for `given` found, ascending. All but an excluded
  // row's have an allowed row.
  void report(std::vector<PackedNeighbor>& nearest, const AllowedRows& allowed, const float* given, float offset,
              int64_t query, const Results& results) const;
  // How much rounding may change the squared distances of a dot index, whose order need not be that of -a.b; else 0.
  double rounding() const;
  // Replaces the squared distances of the nearest by the distances of a dot index, as ordered_bits.
  void measure_dots(std::vector<PackedNeighbor>& nearest, const float* query, int64_t wanted) const;
  // Searches for a row, and reports others.
  void report_row(SearchSpace& space, int64_t row, std::span<const Vertex> starts, const Limit& limit,
                  Displaced displaced, int64_t query, const Results& results) const;
  template <class Body>
  void with_spaces(const cpu::ThreadPool& pool, int64_t count, const Body& body) const;

  PointSet points_;
  Graph graph_;
  std::vector<Vertex> lists_;
  BuildStats stats_;
  // Idle search spaces, for reuse.
  mutable std::mutex spaces_mutex_;
  mutable std::vector<std::unique_ptr<SearchSpace>> spaces_;
};

}  // namespace hardmine::fanng
