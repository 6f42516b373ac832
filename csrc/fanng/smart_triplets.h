// Smart Mining's selection of triplets (Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, section
// 3.2.2, Algorithm 1), from a list of neighbors per sample.
//
// Takes O(N log N) time for the classes, and O(K + T log K) per list of K neighbors for T triplets. An anchor's
// triplets depend on its list, the labels and the seed, not on the thread. Throws std::invalid_argument for invalid
// lists.
#pragma once

#include <cstdint>
#include <vector>

#include "core/candidate.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::fanng {

// The samples of each class.
class Classes {
 public:
  Classes(const int64_t* label, int64_t count);  // [count], any values

  int64_t count() const { return static_cast<int64_t>(class_of_.size()); }  // samples
  Index class_of(int64_t sample) const { return class_of_[sample]; }
  // The samples of a class, ascending, and their number.
  const Index* members(Index c) const { return permutation_.data() + begin_[c]; }
  Index size(Index c) const { return begin_[c + 1] - begin_[c]; }
  // The position of a sample among the members of its class.
  Index position(Index sample) const { return position_[sample]; }
  // True if the sample has a positive and a negative. Other samples get no triplets.
  bool is_anchor(int64_t sample) const;
  // The number of anchors among the samples before this one.
  int64_t anchors_before(int64_t sample) const { return anchors_before_[sample]; }
  int64_t anchors() const { return anchors_before_.back(); }

 private:
  std::vector<Index> class_of_, permutation_, position_;  // [count]
  std::vector<Index> begin_ = {0};                        // [classes + 1]
  std::vector<int64_t> anchors_before_ = {0};             // [count + 1]
};

// The neighbors of `count` samples, up to `length` each, padded with -1.
template <class T>
struct NeighborLists {
  const int64_t* index;  // [count, length]
  const T* distance;     // [count, length], ascending
  int64_t count, length;
};

struct MiningOptions {
  double kappa;        // excludes negatives nearer than kappa times the distance of the nearest positive
  int64_t per_anchor;  // triplets
  uint64_t seed;
};

// Outputs: T = classes.anchors() * per_anchor triplets, by ascending anchor.
struct MinedTriplets {
  int64_t* triplet;      // [T, 3]: anchor, positive, negative
  bool* mined;           // [T]: the negative is from the anchor's list
  bool* mined_positive;  // [T]: the positive is from the anchor's list
};

template <class T>
void smart_triplets(const NeighborLists<T>& lists, const Classes& classes, const MiningOptions& options,
                    const cpu::ThreadPool& pool, const MinedTriplets& out);

}  // namespace hardmine::fanng
