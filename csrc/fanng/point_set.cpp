#include "fanng/point_set.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/int_math.h"

namespace hardmine::fanng {
namespace {

constexpr int64_t kStrideStep = 16;  // every SIMD target sums distances in 16 partial sums
constexpr int64_t kMaxRows = std::numeric_limits<int32_t>::max();

// The squared distance of two rows up to this norm is a finite float.
const double kMaxNorm = std::sqrt(static_cast<double>(std::numeric_limits<float>::max())) / 2;

double norm_of(const float* x, int64_t depth) {
  double sum = 0;
  for (int64_t k = 0; k < depth; ++k) sum += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  return std::sqrt(sum);
}

// Writes x * scale, and zeros up to `stride`. + 0 turns -0 into 0, so that equal rows have equal bits.
void scaled(const float* x, int64_t depth, double scale, int64_t stride, float* out) {
  for (int64_t k = 0; k < depth; ++k) out[k] = static_cast<float>(static_cast<double>(x[k]) * scale) + 0.0F;
  std::fill(out + depth, out + stride, 0.0F);
}

uint64_t hash_of(const float* x, int64_t count) {
  uint64_t hash = 0x9E3779B97F4A7C15;
  for (int64_t k = 0; k < count; k += 2) {  // the stride is even
    uint64_t word;
    std::memcpy(&word, x + k, sizeof(word));
    hash ^= word;
    hash ^= hash >> 29;  // so that a sign changes more than the top bits of the product
    hash *= 0xFF51AFD7ED558CCD;
    hash ^= hash >> 32;
  }
  return hash;
}

}  // namespace

PointSet::PointSet(const float* vectors, int64_t count, int64_t depth, Metric metric) : metric_(metric), depth_(depth) {
  if (count > kMaxRows)
    throw std::invalid_argument("vectors must have at most " + std::to_string(kMaxRows) + " rows, got " +
                                std::to_string(count));
  bool any_zero = false;
  for (int64_t i = 0; i < count; ++i) {
    const float* x = vectors + i * depth;
    const double norm = norm_of(x, depth);
    if (!is_valid(norm)) refuse("vectors", x, i);
    any_zero |= norm == 0;
    if (metric == Metric::kDot) longest_ = std::max(longest_, norm);
  }
  const bool own_dimension = any_zero && metric == Metric::kCosine;
  stored_depth_ = depth + (own_dimension || metric == Metric::kDot);
  stride_ = round_up(stored_depth_, kStrideStep);

  cpu::Buffer<float> rows(count * stride_);
  std::vector<std::pair<uint64_t, int64_t>> hashed(count);
  for (int64_t i = 0; i < count; ++i) {
    float* row = rows.get() + i * stride_;
    store(vectors + i * depth, row);
    if (own_dimension && norm_of(row, depth) == 0) row[depth] = 1;
    hashed[i] = {hash_of(row, stride_), i};
  }
  std::sort(hashed.begin(), hashed.end());

  // The first duplicate of each row. Rows of equal hash are nearly always duplicates.
  std::vector<int64_t> first(count);
  for (int64_t begin = 0, end; begin < count; begin = end) {
    std::vector<int64_t> distinct;
    for (end = begin; end < count && hashed[end].first == hashed[begin].first; ++end) {
      const int64_t i = hashed[end].second;
      const auto same = std::find_if(distinct.begin(), distinct.end(), [&](int64_t j) {
        return std::equal(rows.get() + i * stride_, rows.get() + (i + 1) * stride_, rows.get() + j * stride_);
      });
      first[i] = same == distinct.end() ? i : *same;
      if (same == distinct.end()) distinct.push_back(i);
    }
  }

  vertex_of_.resize(count);
  first_copy_.assign(1, 0);
  for (int64_t i = 0; i < count; ++i) {
    if (first[i] == i) {
      vertex_of_[i] = static_cast<Vertex>(first_copy_.size() - 1);
      first_copy_.push_back(0);
    } else {
      vertex_of_[i] = vertex_of_[first[i]];
    }
    ++first_copy_[vertex_of_[i] + 1];
  }
  for (size_t v = 1; v < first_copy_.size(); ++v) first_copy_[v] += first_copy_[v - 1];
  std::vector<int64_t> next(first_copy_.begin(), first_copy_.end() - 1);
  copies_.resize(count);
  for (int64_t i = 0; i < count; ++i) copies_[next[vertex_of_[i]]++] = i;

  if (vertices() == count) {
    data_ = std::move(rows);
    return;
  }
  data_ = cpu::Buffer<float>(vertices() * stride_);
  for (int64_t i = 0; i < count; ++i)
    if (first[i] == i) std::copy_n(rows.get() + i * stride_, stride_, data_.get() + vertex_of_[i] * stride_);
}

PointSet::PointSet(const PointSet& other, cpu::Buffer<float> data)
    : metric_(Metric::kEuclidean),
      depth_(other.stride_),
      stored_depth_(other.stored_depth_),
      stride_(other.stride_),
      longest_(other.longest_),
      data_(std::move(data)),
      vertex_of_(other.vertex_of_),
      first_copy_(other.first_copy_),
      copies_(other.copies_) {}

PointSet PointSet::inverted() const {
  cpu::Buffer<float> data(vertices() * stride_);
  for (Vertex v = 0; v < static_cast<Vertex>(vertices()); ++v) {
    float* const point = data.get() + static_cast<int64_t>(v) * stride_;
    const double norm = norm_of(vector(v), depth_);
    const double scale = norm > 0 ? longest_ / (norm * std::max(norm, longest_ / kMaxInverse)) : 0;
    scaled(vector(v), depth_, scale, stride_, point);
    if (norm == 0) point[depth_] = static_cast<float>(kMaxInverse);
  }
  return {*this, std::move(data)};
}

void PointSet::store(const float* row, float* out) const {
  const double norm = norm_of(row, depth_);
  scaled(row, depth_, metric_ == Metric::kCosine && norm > 0 ? 1 / norm : 1, stride_, out);
  if (metric_ == Metric::kDot)
    out[depth_] = static_cast<float>(std::sqrt(std::max((longest_ - norm) * (longest_ + norm), 0.0)));
}

bool PointSet::is_valid(double norm) const {
  return std::isfinite(norm) && (metric_ == Metric::kCosine || norm <= kMaxNorm);
}

void PointSet::refuse(const char* name, const float* row, int64_t i) const {
  const std::string must = std::string(name) + " must ", where = " in row " + std::to_string(i);
  const int64_t k = std::find_if(row, row + depth_, [](float value) { return !std::isfinite(value); }) - row;
  throw std::invalid_argument(
      k < depth_ ? must + "be finite, got " + std::to_string(row[k]) + where + ", column " + std::to_string(k)
                 : must + "have norms up to 9.2e18, so that squared distances are finite, got " +
                       std::to_string(norm_of(row, depth_)) + where);
}

bool PointSet::prepare(const float* query, float* out) const {
  const double norm = norm_of(query, depth_);
  if (!is_valid(norm)) return false;
  double scale = 1;
  if (norm > 0 && metric_ == Metric::kCosine) scale = 1 / norm;
  if (norm > 0 && metric_ == Metric::kDot) scale = longest_ / norm;
  scaled(query, depth_, scale, stride_, out);
  return true;
}

void PointSet::prepare_vertex(Vertex v, float* out) const {
  metric_ == Metric::kDot ? static_cast<void>(prepare(vector(v), out))
                          : static_cast<void>(std::copy_n(vector(v), stride_, out));
}

float PointSet::reported(float sq_dist) const { return metric_ == Metric::kCosine ? sq_dist / 2 : std::sqrt(sq_dist); }

float PointSet::squared(float reported, Vertex v) const {
  if (metric_ == Metric::kEuclidean) return reported * reported;
  if (metric_ == Metric::kCosine) return 2 * reported;
  const double norm = norm_of(vector(v), depth_), longest_squared = longest_ * longest_;
  if (norm == 0) return static_cast<float>(longest_squared);
  return static_cast<float>(std::max(2 * longest_squared + 2 * longest_ * static_cast<double>(reported) / norm, 0.0));
}

double PointSet::dot(const float* query, Vertex v) const {
  const float* const row = vector(v);
  double sum = 0;
  for (int64_t k = 0; k < depth_; ++k) sum += static_cast<double>(query[k]) * static_cast<double>(row[k]);
  return sum;
}

}  // namespace hardmine::fanng
