// A matrix of embeddings made ready for the tile engine.
#pragma once

#include "core/similarity.h"
#include "cuda/device/launch.h"
#include "cuda/device/packed_candidate.h"
#include "cuda/device/workspace.h"
#include "cuda/gemm/mma_policy.h"

namespace hardmine::cuda {

// Rows of a matrix in panels.
template <class MmaPolicy>
struct PackedMatrix {
  using acc_t = typename MmaPolicy::acc_t;
  char* panels;     // [panels_of(count)][panel_bytes(depth)]
  acc_t* inv_norm;  // [count]: a number of a tile is multiplied by those of its row and column; null: by nothing
  int32_t* finite;  // [finite_flag_count(count)]: whether every row of the group, and its norm, is finite
  int64_t count;
  int64_t depth;

  HARDMINE_HD const char* panel(int64_t i) const { return panels + i * panel_bytes<MmaPolicy>(depth); }
};

inline constexpr int kFiniteFlagRows = 16;
HARDMINE_HD int64_t finite_flag_count(int64_t count) { return (count + kFiniteFlagRows - 1) / kFiniteFlagRows; }

// What a selection starts from, filled in along with the packing: one launch less.
template <class acc_t>
struct SelectionStart {
  static constexpr int kMaxSelections = 3;
  PackedCandidate<acc_t>* best[kMaxSelections] = {};  // [count] each; null: none
  PackedCandidate<acc_t> value[kMaxSelections] = {};
  int32_t* blocks_done = nullptr;  // [1], set to 0
};

// Packs x [count, depth]. `normalized`: numbers of tiles are to be those of unit rows. Numbers of 2 bytes are packed as
// they are and scaled after the multiplication, which loses nothing; others are divided by their norms first.
template <class MmaPolicy, class Scalar>
PackedMatrix<MmaPolicy> pack_matrix(const Scalar* x, int64_t count, int64_t depth, bool normalized,
                                    const SelectionStart<typename MmaPolicy::acc_t>& start, Workspace& workspace,
                                    const Stream& stream);

}  // namespace hardmine::cuda
