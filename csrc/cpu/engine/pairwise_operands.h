// The operands of a pairwise op, anchors and refs, sorted and packed for the tile engine.
#pragma once

#include <memory>

#include "core/similarity.h"
#include "cpu/engine/excluded_pairs.h"

namespace hardmine::cpu {

template <class T>
class PairwiseOperands {
 public:
  // If refs is null, the anchors are compared with each other.
  PairwiseOperands(const PairMeasure& measure, const LabeledMatrix<T>& anchors, const LabeledMatrix<T>* refs,
                   int64_t depth, const ThreadPool& pool)
      : anchors_(anchors), refs_(refs ? *refs : anchors), symmetric_(refs == nullptr), depth_(depth) {
    row_norms_ = std::make_unique<Norms<T>>(anchors.x, anchors.count, depth, pool);
    if (refs) column_norms_ = std::make_unique<Norms<T>>(refs->x, refs->count, depth, pool);
    finite_ = row_norms_->finite && (!refs || column_norms_->finite);
    row_norm_ = measure.normalized ? row_norms_->norm.get() : nullptr;
    column_norm_ = measure.normalized ? (refs ? column_norms_ : row_norms_)->norm.get() : nullptr;
    if (empty()) return;
    rows_ = std::make_unique<SortedRows<T>>(anchors, depth, row_norm_, nullptr,
                                            refs ? PackFor::kRows : PackFor::kRowsAndColumns, pool);
    if (refs) columns_ = std::make_unique<SortedRows<T>>(*refs, depth, column_norm_, nullptr, PackFor::kColumns, pool);
    params_.rows = rows().view();
    params_.columns = columns().view();
    params_.depth = depth;
    params_.symmetric = symmetric_;
    params_.euclidean = is_distance(measure);
    params_.hyperbolic = is_hyperbolic(measure);
    exclusions_ = std::make_unique<PairExclusions>(anchors.id, rows(), refs_.id, columns());
    params_.excluded = exclusions_->view();
  }

  bool empty() const { return anchors_.count == 0 || refs_.count == 0; }
  bool finite() const { return finite_; }  // every row and its norm
  bool clamped() const { return row_norms_->clamped || (column_norms_ && column_norms_->clamped); }  // see Norms
  bool symmetric() const { return symmetric_; }
  int64_t depth() const { return depth_; }
  const LabeledMatrix<T>& anchors() const { return anchors_; }
  const LabeledMatrix<T>& refs() const { return refs_; }
  const T* row_norm() const { return row_norm_; }  // norms, if rows are normalized, else null
  const T* column_norm() const { return column_norm_; }
  // The rest must not be called if empty().
  const SortedRows<T>& rows() const { return *rows_; }
  const SortedRows<T>& columns() const { return symmetric_ ? *rows_ : *columns_; }
  const PairExclusions& exclusions() const { return *exclusions_; }
  const PairwiseParams<T>& params() const { return params_; }

 private:
  LabeledMatrix<T> anchors_, refs_;
  bool symmetric_, finite_;
  int64_t depth_;
  std::unique_ptr<Norms<T>> row_norms_, column_norms_;
  const T *row_norm_, *column_norm_;
  std::unique_ptr<SortedRows<T>> rows_, columns_;
  std::unique_ptr<PairExclusions> exclusions_;
  PairwiseParams<T> params_{};
};

}  // namespace hardmine::cpu
