// The vertices of a graph: the distinct rows of the user's vectors, in the form that distances are computed from.
//
// Copies of a row are one vertex. They would be at distance 0 of each other, an edge of length 0 must not occlude (one
// copy would hide every other neighbor), and so a group of copies larger than a vertex has edges would be cut off from
// the rest of the graph. A search finds the vertex and reports every copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/engine/rows.h"

namespace hardmine::fanng {

using Vertex = uint32_t;
inline constexpr Vertex kNoVertex = ~Vertex{0};

enum class Metric : uint32_t {
  kEuclidean = 0,  // |a - b|
  kCosine = 1,     // 1 - cos(a, b)
};

// Both metrics order as the squared Euclidean distance of the stored rows does, which is all that the graph compares.
// A cosine index stores a / |a|, and 1 - cos = |a/|a| - b/|b||^2 / 2 without the cancellation of 1 - a.b. A zero row
// has no direction: as in the ops its similarity to every other is 0, so it is stored as a unit vector along a
// dimension of its own, at distance 1 from every row that is not zero.
class PointSet {
 public:
  // vectors [count, depth], finite. Throws std::invalid_argument that names the first bad row, or more rows than an
  // index may have.
  PointSet(const float* vectors, int64_t count, int64_t depth, Metric metric);

  int64_t rows() const { return static_cast<int64_t>(vertex_of_.size()); }
  int64_t depth() const { return depth_; }
  Metric metric() const { return metric_; }

  // Distinct rows, each padded with zeros to `stride` floats.
  int64_t vertices() const { return static_cast<int64_t>(first_copy_.size()) - 1; }
  int64_t stride() const { return stride_; }
  const float* data() const { return data_.get(); }
  const float* vector(Vertex v) const { return data_.get() + static_cast<int64_t>(v) * stride_; }

  Vertex vertex_of(int64_t row) const { return vertex_of_[row]; }
  // The rows that vertex v stands for, ascending.
  const int64_t* copies_begin(Vertex v) const { return copies_.data() + first_copy_[v]; }
  const int64_t* copies_end(Vertex v) const { return copies_.data() + first_copy_[v + 1]; }

  // A query in the stored form: normalized if the metric is, padded; `out` has room for `stride` floats. Returns false
  // if it is not finite, or too large for its distances to be.
  bool prepare(const float* query, float* out) const;

  // What the user is told of a squared distance of stored rows.
  float reported(float sq_dist) const;

 private:
  Metric metric_;
  int64_t depth_, stride_;
  cpu::Buffer<float> data_;
  std::vector<Vertex> vertex_of_;
  std::vector<int64_t> first_copy_, copies_;
};

}  // namespace hardmine::fanng
