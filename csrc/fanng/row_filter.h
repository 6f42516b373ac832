// Which rows a search may report.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "fanng/point_set.h"

namespace hardmine::fanng {

// Of all queries: the allowed rows, and pairs of equal ids that are no candidates. Negative ids stand for none.
struct RowFilter {
  const uint8_t* allowed = nullptr;   // [rows]; null: all
  const int64_t* row_id = nullptr;    // [rows]; null: none
  const int64_t* query_id = nullptr;  // [queries], together with row_id

  bool is_empty() const { return !allowed && !row_id; }
};

// Of one query.
class AllowedRows {
 public:
  // All rows but one, or -1.
  AllowedRows(const PointSet& points, int64_t excluded) : points_(points), excluded_(excluded) {}
  AllowedRows(const PointSet& points, const RowFilter& filter, int64_t query)
      : points_(points),
        allowed_(filter.allowed),
        row_id_(filter.row_id),
        id_(filter.row_id ? filter.query_id[query] : -1) {}

  bool row(int64_t r) const {
    return r != excluded_ && (!allowed_ || allowed_[r] != 0) && (id_ < 0 || row_id_[r] != id_);
  }
  // Whether one of the duplicates is allowed.
  bool vertex(Vertex v) const {
    return std::any_of(points_.copies_begin(v), points_.copies_end(v), [&](int64_t r) { return row(r); });
  }
  int64_t excluded() const { return excluded_; }

 private:
  const PointSet& points_;
  int64_t excluded_ = -1;
  const uint8_t* allowed_ = nullptr;
  const int64_t* row_id_ = nullptr;
  int64_t id_ = -1;
};

// How many rows a filter leaves to each query, and which vertices have them.
class RemainingRows {
 public:
  RemainingRows(const PointSet& points, const RowFilter& filter) : filter_(filter) {
    for (int64_t r = 0; r < points.rows(); ++r) {
      if (filter.allowed && filter.allowed[r] == 0) continue;
      ++allowed_;
      if (filter.row_id && filter.row_id[r] >= 0) ++with_id_[filter.row_id[r]];
    }
    for (Vertex v = 0; filter.allowed && v < static_cast<Vertex>(points.vertices()); ++v)
      if (std::any_of(points.copies_begin(v), points.copies_end(v), [&](int64_t r) { return filter.allowed[r] != 0; }))
        vertices_.push_back(v);
    if (filter.allowed) return;
    vertices_.resize(points.vertices());
    for (Vertex v = 0; v < static_cast<Vertex>(points.vertices()); ++v) vertices_[v] = v;
  }

  int64_t of_query(int64_t query) const {
    const auto equal = filter_.row_id ? with_id_.find(filter_.query_id[query]) : with_id_.end();
    return allowed_ - (equal == with_id_.end() ? 0 : equal->second);
  }
  // Those of all queries; ids exclude some of them.
  const std::vector<Vertex>& vertices() const { return vertices_; }

 private:
  RowFilter filter_;
  int64_t allowed_ = 0;
  std::unordered_map<int64_t, int64_t> with_id_;
  std::vector<Vertex> vertices_;
};

}  // namespace hardmine::fanng
