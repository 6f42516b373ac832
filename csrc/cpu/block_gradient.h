// The gradient of a function of all similarities, as sums over blocks of weights, d function / d similarity; see
// `accumulate`. With y the other row of a pair and w its weight, the pair adds to the gradient of row x
//   dot:        w y
//   cosine:     w y / |y|, before the projection through x / |x| (see `project`)
//   euclidean:  w (y - x), where the weight includes 1 / d or what else the function of the distance gives: the sum of
//               w y, less x times the sum of w. Rows are taken relative to their mean, so that the difference of the
//               two keeps its digits far from the origin. With normalised rows the projection comes last, too.
#pragma once

#include <vector>

#include "labelled_sides.h"

namespace hardmine::cpu {

template <class T>
class BlockGradient {
 public:
  BlockGradient(const LabelledSides<T>& sides, bool need_rows, bool need_columns, const Workers& workers)
      : sides_(sides), kernel_(kernels<T>()), workers_(workers), need_rows_(need_rows), need_columns_(need_columns) {
    row_padded_ = round_up(sides.rows().count(), kBlockStep);
    column_padded_ = round_up(sides.columns().count(), kBlockStep);
    panels_ = (sides.depth() + kernel_.column_panel - 1) / kernel_.column_panel;
    if (sides.pass().euclidean) origin_ = mean_row();
    if (sides.symmetric()) {
      row_values_ = packed(sides.anchors().x, sides.row_scale(), sides.rows(), row_padded_);
      row_grad_ = zeros(row_padded_);
    } else {
      if (need_rows) column_values_ = packed(sides.refs().x, sides.column_scale(), sides.columns(), column_padded_);
      if (need_rows) row_grad_ = zeros(row_padded_);
      if (need_columns) row_values_ = packed(sides.anchors().x, sides.row_scale(), sides.rows(), row_padded_);
      if (need_columns) column_grad_ = zeros(column_padded_);
    }
    row_total_.resize(row_padded_);
    if (!sides.symmetric()) column_total_.resize(column_padded_);
  }

  // Sums of the weights, which a Euclidean pass keeps.
  double* row_total() { return row_total_.data(); }
  double* column_total() { return sides_.symmetric() ? row_total_.data() : column_total_.data(); }

  // Adds a block. Blocks may come in parallel as PairSchedule runs them.
  void add(const Block& block, const T* weights) {
    const int64_t panel = kernel_.column_panel;
    if (sides_.symmetric() || need_rows_) {
      const T* values = sides_.symmetric() ? row_values_.get() : column_values_.get();
      kernel_.accumulate(block, weights, false, sides_.depth(), values + block.column_begin * panel, column_padded_,
                         row_grad_.get() + block.row_begin * panel, row_padded_);
    }
    if (sides_.symmetric() || need_columns_) {
      T* grad = sides_.symmetric() ? row_grad_.get() : column_grad_.get();
      kernel_.accumulate(block, weights, true, sides_.depth(), row_values_.get() + block.row_begin * panel, row_padded_,
                         grad + block.column_begin * panel, column_padded_);
    }
  }

  // Writes the gradients [count, depth] of those sides that were needed, times `factor`.
  void finish(T factor, T* grad_rows, T* grad_columns) const {
    if (need_rows_)
      unpack(sides_.rows(), sides_.anchors().x, sides_.row_scale(), row_grad_.get(), row_padded_, row_total_, factor,
             grad_rows);
    if (!sides_.symmetric() && need_columns_)
      unpack(sides_.columns(), sides_.refs().x, sides_.column_scale(), column_grad_.get(), column_padded_,
             column_total_, factor, grad_columns);
  }

 private:
  std::vector<T> mean_row() const {
    const LabelledRows<T>& anchors = sides_.anchors();
    std::vector<double> sum(sides_.depth(), 0.0);
    for (int64_t i = 0; i < anchors.count; ++i) {
      const T norm = sides_.row_scale() ? sides_.row_scale()[i] : T(1);
      for (int64_t k = 0; k < sides_.depth(); ++k)
        sum[k] += static_cast<double>(anchors.x[i * sides_.depth() + k] / norm);
    }
    std::vector<T> mean(sides_.depth());
    for (int64_t k = 0; k < sides_.depth(); ++k) mean[k] = static_cast<T>(sum[k] / static_cast<double>(anchors.count));
    return mean;
  }

  int64_t threads_for(int64_t count) const {
    return workers_for(workers_, static_cast<double>(count) * static_cast<double>(sides_.depth()), kElementGrain);
  }

  Buffer<T> packed(const T* x, const T* scale, const SortedRows<T>& rows, int64_t padded) const {
    Buffer<T> out(padded * panels_ * kernel_.column_panel);
    parallel_range(workers_, threads_for(rows.count()), rows.count(), 1, [&](int64_t begin, int64_t end) {
      kernel_.pack_depth(x, sides_.depth(), rows.order().data(), scale, origin_.empty() ? nullptr : origin_.data(),
                         padded, begin, end, out.get());
    });
    return out;
  }

  Buffer<T> zeros(int64_t padded) const {
    const int64_t size = padded * panels_ * kernel_.column_panel;
    Buffer<T> out(size);
    parallel_range(workers_, threads_for(padded), size, 1,
                   [&](int64_t begin, int64_t end) { std::fill(out.get() + begin, out.get() + end, T(0)); });
    return out;
  }

  void unpack(const SortedRows<T>& rows, const T* x, const T* scale, const T* packed, int64_t padded,
              const std::vector<double>& total, T factor, T* grad) const {
    const int64_t depth = sides_.depth(), panel = kernel_.column_panel;
    parallel_range(workers_, threads_for(rows.count()), rows.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t source = rows.order()[r];
        T* out = grad + source * depth;
        const T* self = x + source * depth;
        for (int64_t k = 0; k < depth; k += panel)
          std::copy_n(packed + k * padded + r * panel, std::min(panel, depth - k), out + k);
        if (!origin_.empty()) {
          const T sum = static_cast<T>(total[r]), norm = scale ? scale[source] : T(1);
          for (int64_t k = 0; k < depth; ++k) out[k] -= sum * (self[k] / norm - origin_[k]);
        }
        if (factor != T(1))
          for (int64_t k = 0; k < depth; ++k) out[k] *= factor;
        if (!scale) continue;
        // Below the smallest norm, normalize divides by a constant: there is no projection.
        const T norm = scale[source];
        const bool clamped = norm <= Norms<T>::kSmallestNorm;
        kernel_.project(out, self, norm, clamped ? T(0) : kernel_.dot(out, self, depth) / norm, depth);
      }
    });
  }

  const LabelledSides<T>& sides_;
  const Kernels<T>& kernel_;
  const Workers& workers_;
  bool need_rows_, need_columns_;
  int64_t row_padded_, column_padded_, panels_;
  std::vector<T> origin_;
  Buffer<T> row_values_, column_values_, row_grad_, column_grad_;
  std::vector<double> row_total_, column_total_;
};

}  // namespace hardmine::cpu
