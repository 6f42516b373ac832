// The vertices of a graph: the distinct input rows, in the form from which distances are computed.
//
// Duplicate rows are one vertex. An edge of length 0 must not occlude, or one duplicate would hide every other
// neighbor. So a group of more duplicates than max_degree would be disconnected from the rest of the graph. A search
// finds the vertex and reports every duplicate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/selection.h"
#include "cpu/engine/rows.h"

namespace hardmine::fanng {

using Vertex = uint32_t;
inline constexpr Vertex kNoVertex = ~Vertex{0};

// A vertex below `count`, from the upper half of a 32 x 32-bit product.
inline Vertex random_vertex(uint64_t bits, uint64_t count) { return static_cast<Vertex>((bits >> 32) * count >> 32); }

enum class Metric : uint32_t {
  kEuclidean = 0,  // |a - b|
  kCosine = 1,     // 1 - cos(a, b)
  kDot = 2,        // -a.b
};

// All metrics order as the squared Euclidean distance of the query from the stored rows, which is all that a search
// compares.
//
// A cosine index stores a / |a|, since 1 - cos = |a/|a| - b/|b||^2 / 2 avoids the cancellation of 1 - a.b. A zero row
// has no direction, and similarity 0 to every other row, as in the ops. It is stored as a unit vector along an extra
// dimension, at distance 1 from every nonzero row.
//
// A dot index stores (a, sqrt(R^2 - |a|^2)), where R is the norm of the longest row, and takes (R q/|q|, 0) as the
// query: |q' - a'|^2 = 2 R^2 - 2 R q.a / |q| descends with q.a (Bachrach et al., "Speeding up the Xbox recommender
// system using a Euclidean transformation for inner-product spaces", RecSys 2014). Queries are far from all rows, so
// edges to near rows would not lead to answers: the graph is built over `inverted` rows.
class PointSet {
 public:
  // vectors: [count, depth], finite. Throws std::invalid_argument for the first invalid row, or for too many rows.
  PointSet(const float* vectors, int64_t count, int64_t depth, Metric metric);

  int64_t rows() const { return static_cast<int64_t>(vertex_of_.size()); }
  int64_t depth() const { return depth_; }
  Metric metric() const { return metric_; }

  // The similarity of queries and stored rows that orders as their distance does. Those of a cosine index are unit
  // rows.
  Similarity kind() const { return metric_ == Metric::kEuclidean ? Similarity::kEuclidean : Similarity::kDot; }

  // The distinct rows, each padded with zeros to `stride` floats.
  int64_t vertices() const { return static_cast<int64_t>(first_copy_.size()) - 1; }
  int64_t stride() const { return stride_; }
  int64_t stored_depth() const { return stored_depth_; }  // without the padding
  const float* data() const { return data_.get(); }
  const float* vector(Vertex v) const { return data_.get() + static_cast<int64_t>(v) * stride_; }

  Vertex vertex_of(int64_t row) const { return vertex_of_[row]; }
  // The input rows of vertex v, ascending.
  const int64_t* copies_begin(Vertex v) const { return copies_.data() + first_copy_[v]; }
  const int64_t* copies_end(Vertex v) const { return copies_.data() + first_copy_[v + 1]; }

  // For a dot index: the same vertices as points a / |a|^2 of a Euclidean set. Greedy walks along near neighbors of
  // these, measured by q.a, reach the rows of largest q.a (Zhou et al., "Mobius transformation for fast inner product
  // search on graph", NeurIPS 2019). Points are scaled to norms from 1, of the longest row, to kMaxInverse: shorter
  // rows are taken for longer, and zero rows lie along an extra dimension.
  PointSet inverted() const;
  // The norm of the longest row of a dot index, also of its inverted points; else 0.
  double longest() const { return longest_; }

  // Writes the query in the form that is compared with stored rows, `stride` floats. Returns false if it or its
  // distances are not finite.
  bool prepare(const float* query, float* out) const;
  // Throws std::invalid_argument, which says why `prepare` has refused row i of `name`.
  [[noreturn]] void refuse(const char* name, const float* row, int64_t i) const;
  // Row v in this form.
  void prepare_vertex(Vertex v, float* out) const;

  // The distance that users see, from the squared distance of a query from a stored row; not for a dot index, whose
  // distances are -a.b.
  float reported(float sq_dist) const;
  // The squared distance of row v as a query, from the distance that users see.
  float squared(float reported, Vertex v) const;
  // a.b of a query of `depth` numbers and row v of a dot index, in double.
  double dot(const float* query, Vertex v) const;

 private:
  static constexpr double kMaxInverse = 1e6;

  PointSet(const PointSet& other, cpu::Buffer<float> data);

  bool is_valid(double norm) const;
  // Writes a row in the stored form.
  void store(const float* row, float* out) const;

  Metric metric_;
  int64_t depth_, stored_depth_, stride_;
  double longest_ = 0;
  cpu::Buffer<float> data_;
  std::vector<Vertex> vertex_of_;
  std::vector<int64_t> first_copy_, copies_;
};

}  // namespace hardmine::fanng
