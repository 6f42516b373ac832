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
};

// Both metrics order as the squared Euclidean distance of the stored rows, which is all that the graph compares. A
// cosine index stores a / |a|, since 1 - cos = |a/|a| - b/|b||^2 / 2 avoids the cancellation of 1 - a.b. A zero row has
// no direction, and similarity 0 to every other row, as in the ops. It is stored as a unit vector along an extra
// dimension, at distance 1 from every nonzero row.
class PointSet {
 public:
  // vectors: [count, depth], finite. Throws std::invalid_argument for the first invalid row, or for too many rows.
  PointSet(const float* vectors, int64_t count, int64_t depth, Metric metric);

  int64_t rows() const { return static_cast<int64_t>(vertex_of_.size()); }
  int64_t depth() const { return depth_; }
  Metric metric() const { return metric_; }

  // The similarity of the stored rows that orders as their distance does. Those of a cosine index are unit rows.
  Similarity kind() const { return metric_ == Metric::kCosine ? Similarity::kDot : Similarity::kEuclidean; }

  // The distinct rows, each padded with zeros to `stride` floats.
  int64_t vertices() const { return static_cast<int64_t>(first_copy_.size()) - 1; }
  int64_t stride() const { return stride_; }
  const float* data() const { return data_.get(); }
  const float* vector(Vertex v) const { return data_.get() + static_cast<int64_t>(v) * stride_; }

  Vertex vertex_of(int64_t row) const { return vertex_of_[row]; }
  // The input rows of vertex v, ascending.
  const int64_t* copies_begin(Vertex v) const { return copies_.data() + first_copy_[v]; }
  const int64_t* copies_end(Vertex v) const { return copies_.data() + first_copy_[v + 1]; }

  // Writes the query in the stored form: normalized for the cosine metric, padded to `stride` floats. Returns false if
  // it or its distances are not finite.
  bool prepare(const float* query, float* out) const;

  // The distance that users see, from the squared distance of stored rows.
  float reported(float sq_dist) const;
  float squared(float reported) const { return metric_ == Metric::kCosine ? 2 * reported : reported * reported; }

 private:
  Metric metric_;
  int64_t depth_, stride_;
  cpu::Buffer<float> data_;
  std::vector<Vertex> vertex_of_;
  std::vector<int64_t> first_copy_, copies_;
};

}  // namespace hardmine::fanng
