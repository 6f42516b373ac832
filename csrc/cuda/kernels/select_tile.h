// The consumer of selections: offers a tile's best candidates to its rows and, if the batch is its own set of
// candidates, to its columns.
#pragma once

#include <limits>

#include "cuda/device/packed_candidate.h"
#include "cuda/gemm/tile_labels.h"

namespace hardmine::cuda {

// One selection of a pass: the best candidate per anchor.
template <class acc_t>
struct SelectionSpec {
  PackedCandidate<acc_t>* best;  // [anchors], initialized; null: nothing is selected
  const acc_t* upper;            // [anchors], the largest admissible key; null: `limit` for all
  acc_t limit;
  acc_t sign;  // 1 or -1: the key is sign * score
};

template <class MmaPolicy>
struct SelectionParams : PairwiseOperands<MmaPolicy> {
  using acc_t = typename MmaPolicy::acc_t;
  bool bounded;  // some spec has a largest admissible key
  SelectionSpec<acc_t> positive, negative;
};

// The engine's shared memory, which the exchange between warps reuses, and the tile's labels.
template <class MmaPolicy>
constexpr size_t select_shared_bytes() {
  return MmaPolicy::kSharedBytes + TileLabels<MmaPolicy>::kBytes;
}

template <class MmaPolicy, Ids kIds>
class SelectTile {
  using acc_t = typename MmaPolicy::acc_t;
  using Candidate = PackedCandidate<acc_t>;
  static constexpr int kTile = MmaPolicy::kTile, kRows = MmaPolicy::kRows, kColumns = MmaPolicy::kColumns;

 public:
  __device__ __forceinline__ explicit SelectTile(const SelectionParams<MmaPolicy>& params)
      : params_(params), labels_(shared_memory() + MmaPolicy::kSharedBytes) {}

  // Computes and consumes one tile. `both_sides`: its pairs are offered to their columns as well.
  __device__ __forceinline__ void visit(int64_t row_panel, int64_t column_panel, bool both_sides) {
    first_row_ = row_panel * kTile;
    first_column_ = column_panel * kTile;
    both_sides_ = both_sides && row_panel != column_panel;
    const bool any_same_class = labels_.read(params_, first_row_, first_column_);
    const bool whole = first_row_ + kTile <= params_.rows.count && first_column_ + kTile <= params_.columns.count;
    const bool all_negatives = whole && !any_same_class;  // and so the tile does not touch the diagonal
    const bool positives = params_.positive.best && any_same_class;
    if (!positives && !params_.negative.best) return;
    make_candidate_tile<kIds>(params_.rows, params_.columns, params_.ids, row_panel, column_panel, fragment_);
    if (params_.negative.best) {
      if (params_.bounded) {
        offer_all<Pairs::kNegatives, Mask::kSome, Bound::kUpper>(params_.negative);
      } else if (all_negatives) {
        offer_all<Pairs::kNegatives, Mask::kNone, Bound::kNone>(params_.negative);
      } else {
        offer_all<Pairs::kNegatives, Mask::kSome, Bound::kNone>(params_.negative);
      }
    }
    if (positives) {
      if (params_.bounded) {
        offer_all<Pairs::kPositives, Mask::kSome, Bound::kUpper>(params_.positive);
      } else {
        offer_all<Pairs::kPositives, Mask::kSome, Bound::kNone>(params_.positive);
      }
    }
  }

 private:
  enum class Pairs { kPositives, kNegatives };
  enum class Mask { kNone, kSome };    // whether some pairs of the tile are no candidates
  enum class Bound { kNone, kUpper };  // whether keys have a largest admissible value

  static __device__ __forceinline__ acc_t upper_of(const SelectionSpec<acc_t>& spec, int64_t anchor, int64_t count) {
    if (!spec.upper) return spec.limit;
    return anchor < count ? spec.upper[anchor] : spec.limit;
  }

  template <Pairs kPairs, Mask kMask, Bound kBound>
  __device__ __forceinline__ void offer_all(const SelectionSpec<acc_t>& spec) {
    constexpr bool kPositive = kPairs == Pairs::kPositives, kSome = kMask == Mask::kSome,
                   kBounded = kBound == Bound::kUpper;
    constexpr acc_t kWorst = -std::numeric_limits<acc_t>::infinity();
    constexpr int kAtOnce = 8;  // columns: as many as the registers allow
    acc_t row_key[kRows], row_upper[kRows];
    Index row_best[kRows];
    int64_t row_label[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      row_key[r] = kWorst;
      row_best[r] = kBelowRange;
      if constexpr (kSome) row_label[r] = labels_.row[MmaPolicy::row(r)];
      if constexpr (kBounded) row_upper[r] = upper_of(spec, first_row_ + MmaPolicy::row(r), params_.rows.count);
    }
#pragma unroll
    for (int first = 0; first < kColumns; first += kAtOnce) {
      Candidate of_column[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int c = first + i;
        acc_t column_key = kWorst;
        Index column_best = kBelowRange;
        const int64_t column = first_column_ + MmaPolicy::column(c);
        const int64_t label = kSome ? labels_.column[MmaPolicy::column(c)] : 0;
        acc_t column_upper = 0;
        if constexpr (kBounded)  // only in a symmetric pass are columns anchors
          column_upper = params_.symmetric ? upper_of(spec, column, params_.columns.count) : spec.limit;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int64_t row = first_row_ + MmaPolicy::row(r);
          const acc_t key = spec.sign * fragment_.at[r][c];  // NaN is above nothing
          bool candidate = true;
          if constexpr (kSome) {
            candidate = (label == row_label[r]) == kPositive && column < params_.columns.count &&
                        row < params_.rows.count && !(params_.symmetric && row == column);
          }
          // Rows and columns come in ascending order: of equal keys the first has the lowest index.
          if (candidate && key > row_key[r] && (!kBounded || key <= row_upper[r])) {
            row_key[r] = key;
            row_best[r] = static_cast<Index>(column);
          }
          if (candidate && key > column_key && (!kBounded || key <= column_upper)) {
            column_key = key;
            column_best = static_cast<Index>(row);
          }
        }
        of_column[i] = Candidate::of(column_key, column_best);
      }
      if (!both_sides_) continue;
      int place = first;
      reduce_to_lanes<kAtOnce, 16, 8, 4>(of_column, &place);
      exchange()[(2 + warp_index() / 2) * kTile + MmaPolicy::column(place)] = of_column[0];
    }
    Candidate of_row[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) of_row[r] = Candidate::of(row_key[r], row_best[r]);
    int place = 0;
    reduce_to_lanes<kRows, 2, 1>(of_row, &place);
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) exchange()[warp_index() % 2 * kTile + MmaPolicy::row(place + i)] = of_row[i];

    __syncthreads();
    if (threadIdx.x < kTile) {
      offer_best(spec, exchange() + threadIdx.x, first_row_ + threadIdx.x, params_.rows.count);
      if (both_sides_)
        offer_best(spec, exchange() + 2 * kTile + threadIdx.x, first_column_ + threadIdx.x, params_.columns.count);
    }
    __syncthreads();  // before the exchange is reused
  }

  // Where two warps meet that share rows or columns: [rows, columns][2 warps][kTile]. The engine's memory is free here.
  static __device__ __forceinline__ Candidate* exchange() { return reinterpret_cast<Candidate*>(shared_memory()); }

  static __device__ __forceinline__ void offer_best(const SelectionSpec<acc_t>& spec, const Candidate* halves,
                                                    int64_t anchor, int64_t count) {
    const Candidate best = halves[kTile].beats(halves[0]) ? halves[kTile] : halves[0];
    if (anchor < count && best.index() >= 0) offer(spec.best + anchor, best);
  }

  const SelectionParams<MmaPolicy>& params_;
  const TileLabels<MmaPolicy> labels_;
  int64_t first_row_ = 0, first_column_ = 0;
  bool both_sides_ = false;
  Fragment<MmaPolicy> fragment_;
};

}  // namespace hardmine::cuda
