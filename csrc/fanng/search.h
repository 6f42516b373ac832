// Best-first searches of the graph. Each measures its starts, then follows the edges of the nearest vertex whose edges
// it has not followed: it measures those of their targets that it has not seen. Two searches differ in where they end.
//
// FANNG's backtrack search (Harwood and Drummond, CVPR 2016, Alg. 3) ends after a number of distance computations. A
// search of limited width ends when it has followed the edges of the `width` nearest vertices that it has found. It
// spends less where the nearest are found soon.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "fanng/draft_graph.h"
#include "fanng/row_filter.h"

namespace hardmine::fanng {

// The priority queue of a search.
//
// A search pops few of the vertices that it pushes, nearly always among the nearest. So the nearest kNear vertices are
// sorted, and the farther ones are not: most pushes cost one comparison. A heap of all vertices took most of the time
// of a search.
class Frontier {
 public:
  void clear();
  void push(PackedNeighbor vertex) {
    if (size_ == kNear) limit_ = near_[0];  // near_[0] or the new vertex goes to far_
    if (vertex > limit_) {
      far_.push_back(vertex);
      return;
    }
    if (size_ == kNear) {  // the farthest near vertex moves to far_
      far_.push_back(near_[0]);
      PackedNeighbor* const place = std::lower_bound(near_ + 1, near_ + kNear, vertex, std::greater<>());
      std::copy(near_ + 1, place, near_);
      place[-1] = vertex;
      limit_ = near_[0];
      return;
    }
    PackedNeighbor* const last = near_ + size_++;
    PackedNeighbor* const place = std::lower_bound(near_, last, vertex, std::greater<>());
    std::copy_backward(place, last, last + 1);
    *place = vertex;
  }
  bool empty() {
    if (size_ == 0) refill();
    return size_ == 0;
  }
  PackedNeighbor nearest() const { return near_[size_ - 1]; }  // after empty() has returned false
  Vertex pop() { return vertex_of(near_[--size_]); }           // must not be empty

 private:
  static constexpr int64_t kNear = 64;

  void refill();

  PackedNeighbor near_[kNear];  // descending
  int64_t size_ = 0;
  PackedNeighbor limit_ = ~PackedNeighbor{0};  // a lower bound of far_
  std::vector<PackedNeighbor> far_;
};

// A vertex to which a search attributes another distance from the query.
struct Displaced {
  Vertex vertex = kNoVertex;
  float sq_dist = 0;
};

// The queue of a search of limited width: the nearest vertices found, at most `width`, ascending.
//
// The edges that a search of one width follows before it ends are the first that any wider search follows, because a
// vertex that drops out of a list never comes back. A search follows the edges of a vertex if its width is more than
// the vertex's position at that time.
class NearestList {
 public:
  void clear(int64_t width) {
    size_ = next_ = 0;
    widen(width);
  }
  void widen(int64_t width) {
    width_ = width;
    if (static_cast<int64_t>(entries_.size()) < width) entries_.resize(width);
    limit_ = size_ == width_ ? entries_[size_ - 1] : kUnlimited;
  }
  int64_t size() const { return size_; }
  PackedNeighbor operator[](int64_t i) const {
    return (entries_[i] & kDistanceBits) | static_cast<Vertex>(entries_[i]) >> 1;
  }
  // Whether the list is full of vertices that are nearer.
  bool is_beyond(PackedNeighbor vertex) const { return entry_of(vertex) > limit_; }
  // Adds a vertex that is not in the list, unless the list is full of nearer ones.
  void push(PackedNeighbor vertex) {
    const uint64_t entry = entry_of(vertex);
    if (entry >= limit_) return;
    size_ += size_ < width_;
    int64_t place = size_ - 1;
    for (; place > 0 && entries_[place - 1] > entry; --place) entries_[place] = entries_[place - 1];
    entries_[place] = entry;
    next_ = std::min(next_, place);
    if (size_ == width_) limit_ = entries_[size_ - 1];
  }
  // Whether there is a vertex whose edges have not been followed. Finds the nearest of these.
  bool any_left() {
    while (next_ < size_ && (entries_[next_] & 1) != 0) ++next_;
    return next_ < size_;
  }
  int64_t position() const { return next_; }  // of the vertex that any_left found
  Vertex follow() {
    const uint64_t entry = entries_[next_];
    entries_[next_++] = entry | 1;
    return static_cast<Vertex>(entry) >> 1;
  }

 private:
  static constexpr uint64_t kUnlimited = ~uint64_t{0}, kDistanceBits = kUnlimited << 32;

  static uint64_t entry_of(PackedNeighbor vertex) {
    return (vertex & kDistanceBits) | uint64_t{vertex_of(vertex)} << 1;
  }

  int64_t width_ = 0, size_ = 0;
  int64_t next_ = 0;             // the edges of all entries before were followed
  uint64_t limit_ = kUnlimited;  // entries must be less
  // Squared distance, vertex (31 bits) and whether its edges were followed, from the highest bit to the lowest.
  std::vector<uint64_t> entries_;
};

// A vertex that a search measured, and the least width of a search that does.
struct Traced {
  PackedNeighbor vertex;
  int64_t width;
};

// The buffers of a search, reused by consecutive searches.
class SearchSpace {
 public:
  explicit SearchSpace(int64_t vertices) : seen_(static_cast<size_t>(vertices), 0) {}

  // Measures up to `max_computations` vertices: the distinct `starts` first, then along the edges. Returns them in the
  // order in which they were measured, valid until the next search.
  std::vector<PackedNeighbor>& search(const Graph& graph, const PointSet& points, const float* query,
                                      std::span<const Vertex> starts, int64_t max_computations,
                                      Displaced displaced = {});

  // Returns the `width` nearest vertices that a search of this width finds, ascending, valid until the next search.
  // Unless null, `trace` gets all that it measures, in their order.
  std::vector<PackedNeighbor>& nearest(const Graph& graph, const PointSet& points, const float* query,
                                       std::span<const Vertex> starts, int64_t width, Displaced displaced = {},
                                       std::vector<Traced>* trace = nullptr);

  // Returns the `width` nearest allowed vertices that a search finds, ascending, valid until the next search. It also
  // follows the edges of vertices that are not allowed, and ends when it has followed those of all that it has found up
  // to the farthest that it returns. Returns null as soon as it has measured more than `max_computations` vertices.
  std::vector<PackedNeighbor>* nearest_allowed(const Graph& graph, const PointSet& points, const float* query,
                                               std::span<const Vertex> starts, int64_t width,
                                               const AllowedRows& allowed, int64_t max_computations);

  // Measures the allowed ones among the vertices, in their order. The result is valid until the next search.
  std::vector<PackedNeighbor>& scan(const PointSet& points, const float* query, std::span<const Vertex> vertices,
                                    const AllowedRows& allowed);

 private:
  void begin();
  // Measures the starts; the nearest kKeptStarts remain in the list. Others count as unseen.
  void measure_starts(const Distances& distances, const float* query, std::span<const Vertex> starts,
                      Displaced displaced);
  // The list's vertices, in measured_.
  std::vector<PackedNeighbor>& listed();
  // Fills batch_ with the unseen targets of a vertex. Returns their number.
  int64_t gather_unseen(const Graph& graph, Vertex vertex);

  std::vector<uint8_t> seen_;  // the number of the last search that saw the vertex; few bits, for the cache
  uint8_t search_ = 0;
  Frontier frontier_;
  NearestList list_;
  std::vector<Vertex> batch_;
  std::vector<float> sq_dist_;
  std::vector<PackedNeighbor> measured_;
};

}  // namespace hardmine::fanng
