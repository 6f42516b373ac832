// Smart Mining's selection of triplets (Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, section
// 3.2.2, Algorithm 1): from every sample's list of neighbors, wherever they came from.
//
// Costs O(N log N) for the classes, and O(K + T log K) a list for K neighbors and T triplets. Each anchor's result
// depends on its own list, the labels and the seed, not on which thread finds it. Throws std::invalid_argument for
// lists that are none.
#pragma once

#include <cstdint>
#include <vector>

#include "core/candidate.h"
#include "cpu/engine/thread_pool.h"

namespace hardmine::fanng {

// Which samples are of which class.
class Classes {
 public:
  Classes(const int64_t* label, int64_t count);  // [count], any values

  int64_t count() const { return static_cast<int64_t>(class_of_.size()); }  // of samples
  Index class_of(int64_t sample) const { return class_of_[sample]; }
  // The samples of a class, ascending, and how many they are.
  const Index* members(Index c) const { return order_.data() + begin_[c]; }
  Index size(Index c) const { return begin_[c + 1] - begin_[c]; }
  // Where among the members of its class a sample stands.
  Index place(Index sample) const { return place_[sample]; }
  // Anchors have a positive and a negative somewhere; others get no triplets.
  bool is_anchor(int64_t sample) const;
  // How many anchors there are among the samples before this one.
  int64_t anchors_before(int64_t sample) const { return anchors_before_[sample]; }
  int64_t anchors() const { return anchors_before_.back(); }

 private:
  std::vector<Index> class_of_, order_, place_;  // [count]
  std::vector<Index> begin_ = {0};               // [classes + 1]
  std::vector<int64_t> anchors_before_ = {0};    // [count + 1]
};

// Neighbors of `count` samples, `length` each or fewer, which -1 then fills up.
template <class T>
struct NeighborLists {
  const int64_t* index;  // [count, length]
  const T* distance;     // [count, length], ascending
  int64_t count, length;
};

struct MiningOptions {
  double kappa;        // negatives nearer than this many times the distance of the nearest positive are left out
  int64_t per_anchor;  // triplets
  uint64_t seed;
};

// Where the triplets go: T = classes.anchors() * per_anchor of them, by ascending anchor.
struct MinedTriplets {
  int64_t* triplet;      // [T, 3]: anchor, positive, negative
  bool* mined;           // [T]: the negative is from the anchor's list
  bool* mined_positive;  // [T]: the positive is as well
};

template <class T>
void smart_triplets(const NeighborLists<T>& lists, const Classes& classes, const MiningOptions& options,
                    const cpu::ThreadPool& pool, const MinedTriplets& out);

}  // namespace hardmine::fanng
