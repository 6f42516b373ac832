#include "fanng/smart_triplets.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <span>
#include <sstream>
#include <stdexcept>

#include "core/random.h"
#include "fanng/threads.h"

namespace hardmine::fanng {

Classes::Classes(const int64_t* label, int64_t count) : class_of_(count), permutation_(count), position_(count) {
  std::iota(permutation_.begin(), permutation_.end(), 0);
  std::sort(permutation_.begin(), permutation_.end(),
            [&](Index a, Index b) { return label[a] != label[b] ? label[a] < label[b] : a < b; });
  for (Index i = 0; i < count; ++i) {
    if (i > 0 && label[permutation_[i]] != label[permutation_[i - 1]]) begin_.push_back(i);
    class_of_[permutation_[i]] = static_cast<Index>(begin_.size()) - 1;
    position_[permutation_[i]] = i - begin_.back();
  }
  if (count > 0) begin_.push_back(static_cast<Index>(count));
  for (Index i = 0; i < count; ++i) anchors_before_.push_back(anchors_before_.back() + is_anchor(i));
}

bool Classes::is_anchor(int64_t sample) const {
  const Index class_size = size(class_of(sample));
  return class_size > 1 && class_size < count();
}

namespace {

constexpr int64_t kListsPerChunk = 64;

template <class T>
class Miner {
 public:
  Miner(const NeighborLists<T>& lists, const Classes& classes, const MiningOptions& options, const MinedTriplets& out)
      : lists_(lists), classes_(classes), options_(options), out_(out), last_list_(lists.count, -1) {}

  // True if the list is valid. Must be called before `mine`, once per list.
  bool is_valid(int64_t row) { return find_error(row).kind == kNone; }

  // The error message for an invalid list.
  std::string describe(int64_t row);

  void mine(int64_t anchor);

 private:
  enum ListErrorKind { kNone, kOutOfRange, kAfterEnd, kRepeated, kDistance, kOrder };
  struct ListError {
    ListErrorKind kind = kNone;
    int64_t column = 0;
  };
  struct Positive {
    Index sample;
    Index valid_negatives;  // the number of negatives before it in the list
  };

  ListError find_error(int64_t row);
  void split(int64_t anchor);
  Index draw_positive(int64_t anchor, std::span<const Index> excluded, uint64_t number) const;
  Index draw_negative(int64_t anchor, uint64_t number) const;

  const int64_t* list(int64_t row) const { return lists_.index + row * lists_.length; }
  const T* distances(int64_t row) const { return lists_.distance + row * lists_.length; }

  const NeighborLists<T>& lists_;
  const Classes& classes_;
  const MiningOptions& options_;
  const MinedTriplets& out_;
  std::vector<Index> last_list_;  // [count]: the last list that contained each sample
  std::vector<Index> negatives_;  // of the current anchor, by ascending distance, as positives_
  std::vector<Positive> positives_;
  std::vector<Index> excluded_;  // class positions of the anchor and its positives, ascending
};

template <class T>
typename Miner<T>::ListError Miner<T>::find_error(int64_t row) {
  const int64_t* index = list(row);
  const T* distance = distances(row);
  bool ended = false;
  for (int64_t j = 0; j < lists_.length; ++j) {
    if (index[j] < -1 || index[j] >= lists_.count) return {kOutOfRange, j};
    if (index[j] == -1) {
      ended = true;
      continue;
    }
    if (ended) return {kAfterEnd, j};
    if (last_list_[index[j]] == row) return {kRepeated, j};
    last_list_[index[j]] = static_cast<Index>(row);
    if (!std::isfinite(distance[j]) || distance[j] < 0) return {kDistance, j};
    if (j > 0 && distance[j] < distance[j - 1]) return {kOrder, j};
  }
  return {};
}

template <class T>
std::string Miner<T>::describe(int64_t row) {
  std::fill(last_list_.begin(), last_list_.end(), -1);
  const ListError error = find_error(row);
  const int64_t column = error.column, index = list(row)[column];
  const T* distance = distances(row) + column;
  std::ostringstream text;
  text.precision(9);
  switch (error.kind) {
    case kOutOfRange:
      text << "neighbor_lists must be from 0 to N - 1 = " << lists_.count - 1 << ", or -1 as padding, got " << index;
      break;
    case kAfterEnd:
      text << "neighbor_lists must have -1 only at the end of a list, got " << index << " after -1";
      break;
    case kRepeated:
      text << "neighbor_lists must not repeat a sample within a list, got " << index << " again";
      break;
    case kDistance:
      text << "distances must be finite and >= 0 for each neighbor, got " << *distance;
      break;
    case kOrder:
      text << "distances must be ascending, got " << *distance << " after " << distance[-1];
      break;
    case kNone:
      return "";
  }
  text << " at [" << row << ", " << column << "]";
  return text.str();
}

// Lines 2 to 16 of Algorithm 1.
template <class T>
void Miner<T>::split(int64_t anchor) {
  negatives_.clear();
  positives_.clear();
  const int64_t* index = list(anchor);
  const T* distance = distances(anchor);
  double bound = 0;
  for (int64_t j = 0; j < lists_.length && index[j] >= 0; ++j) {
    if (index[j] == anchor) continue;  // a search from a sample finds the sample
    const auto sample = static_cast<Index>(index[j]);
    const bool positive = classes_.class_of(sample) == classes_.class_of(anchor);
    if (positives_.empty()) {
      if (!positive) continue;
      bound = options_.kappa * static_cast<double>(distance[j]);
      positives_.push_back({sample, 0});
    } else if (static_cast<double>(distance[j]) < bound) {
      continue;
    } else if (positive) {
      positives_.push_back({sample, static_cast<Index>(negatives_.size())});
    } else {
      negatives_.push_back(sample);
    }
  }
}

// A uniform choice among the anchor's class without the ascending class positions `excluded`.
template <class T>
Index Miner<T>::draw_positive(int64_t anchor, std::span<const Index> excluded, uint64_t number) const {
  const Index class_index = classes_.class_of(anchor), count = static_cast<Index>(excluded.size());
  const Index rank = drawn_rank(random_unit(options_.seed, number), classes_.size(class_index) - count);
  return classes_.members(class_index)[ranked_negative(excluded.data(), count, rank)];
}

template <class T>
Index Miner<T>::draw_negative(int64_t anchor, uint64_t number) const {
  const Index class_index = classes_.class_of(anchor), size = classes_.size(class_index);
  const Index rank = drawn_rank(random_unit(options_.seed, number), static_cast<Index>(classes_.count()) - size);
  return ranked_negative(classes_.members(class_index), size, rank);
}

// Lines 17 to 27. The number of valid negatives grows along the positives: a positive that excludes a negative excludes
// all later ones. So each list is traversed once.
template <class T>
void Miner<T>::mine(int64_t anchor) {
  split(anchor);
  const Index class_index = classes_.class_of(anchor), position = classes_.position(static_cast<Index>(anchor));
  excluded_.clear();
  size_t k = 0;
  for (int64_t t = 0; t < options_.per_anchor; ++t) {
    const uint64_t number = 2 * static_cast<uint64_t>(anchor * options_.per_anchor + t);
    const bool mined = t < static_cast<int64_t>(negatives_.size());
    const Index negative = mined ? negatives_[t] : draw_negative(anchor, number + 1);
    Index positive;
    bool mined_positive = false;
    if (!mined) {
      positive = draw_positive(anchor, {&position, 1}, number);
    } else {
      while (k < positives_.size() && positives_[k].valid_negatives <= t) ++k;
      if (k == positives_.size() && excluded_.empty()) {
        excluded_.push_back(position);
        for (const Positive& listed : positives_) excluded_.push_back(classes_.position(listed.sample));
        std::sort(excluded_.begin(), excluded_.end());
      }
      const bool all_listed = static_cast<Index>(excluded_.size()) == classes_.size(class_index);
      mined_positive = k < positives_.size() || all_listed;
      positive = k < positives_.size() ? positives_[k].sample
                 : all_listed          ? positives_.back().sample
                                       : draw_positive(anchor, excluded_, number);
    }
    const int64_t at = classes_.anchors_before(anchor) * options_.per_anchor + t;
    int64_t* triplet = out_.triplet + 3 * at;
    triplet[0] = anchor;
    triplet[1] = positive;
    triplet[2] = negative;
    out_.mined[at] = mined;
    out_.mined_positive[at] = mined_positive;
  }
}

}  // namespace

template <class T>
void smart_triplets(const NeighborLists<T>& lists, const Classes& classes, const MiningOptions& options,
                    const cpu::ThreadPool& pool, const MinedTriplets& out) {
  std::vector<Miner<T>> miners(pool.count(), Miner<T>(lists, classes, options, out));
  std::atomic<int64_t> first_error{lists.count};
  parallel_chunks(pool, lists.count, kListsPerChunk, [&](int64_t worker, int64_t begin, int64_t end) {
    Miner<T>& miner = miners[worker];
    for (int64_t row = begin; row < end; ++row) {
      if (miner.is_valid(row)) {
        if (classes.is_anchor(row)) miner.mine(row);
        continue;
      }
      // The first of all errors, whichever thread finds it.
      int64_t first = first_error.load();
      while (row < first && !first_error.compare_exchange_weak(first, row)) {
      }
      return;
    }
  });
  if (first_error < lists.count) throw std::invalid_argument(miners[0].describe(first_error));
}

template decltype(smart_triplets<float>) smart_triplets<float>;
template decltype(smart_triplets<double>) smart_triplets<double>;

}  // namespace hardmine::fanng
