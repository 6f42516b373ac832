#include "fanng/smart_triplets.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <stdexcept>

#include "support/check.h"
#include "support/thread_pools.h"

using namespace hardmine;
using namespace hardmine::fanng;
using hardmine::test::SerialPool;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

struct Mined {
  std::vector<int64_t> triplet;
  std::vector<char> mined, mined_positive;
  bool operator==(const Mined&) const = default;
};

template <class T>
struct Lists {
  std::vector<int64_t> label, index;
  std::vector<T> distance;

  Mined mine(const MiningOptions& options, const cpu::ThreadPool& pool = SerialPool()) const {
    const auto count = static_cast<int64_t>(label.size());
    const int64_t length = count ? static_cast<int64_t>(index.size()) / count : 0;
    const Classes classes(label.data(), count);
    const int64_t triplets = classes.anchors() * options.per_anchor;
    Mined out{std::vector<int64_t>(3 * triplets), std::vector<char>(triplets), std::vector<char>(triplets)};
    const auto mined = std::make_unique<bool[]>(triplets), mined_positive = std::make_unique<bool[]>(triplets);
    smart_triplets(NeighborLists<T>{index.data(), distance.data(), count, length}, classes, options, pool,
                   {out.triplet.data(), mined.get(), mined_positive.get()});
    std::copy_n(mined.get(), triplets, out.mined.begin());
    std::copy_n(mined_positive.get(), triplets, out.mined_positive.begin());
    return out;
  }

  std::string error(const cpu::ThreadPool& pool = SerialPool(), int64_t per_anchor = 1) const {
    try {
      mine({1.0, per_anchor, 0}, pool);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  }
};

// Only sample 0 has a list. `label` holds the classes of all samples.
Lists<double> first_list(std::vector<int64_t> label, std::vector<int64_t> index, std::vector<double> distance) {
  const size_t count = label.size();
  index.resize(count * index.size(), -1);
  distance.resize(index.size(), kNan);
  return {std::move(label), std::move(index), std::move(distance)};
}

}  // namespace

TEST(classes_list_their_members) {
  const std::vector<int64_t> label = {5, -3, 5, INT64_MAX, 5, -3};
  const Classes classes(label.data(), 6);
  CHECK_EQ(classes.anchors(), 5);
  for (Index i = 0; i < 6; ++i) {
    const Index own = classes.class_of(i);
    CHECK_EQ(classes.size(own), std::count(label.begin(), label.end(), label[i]));
    CHECK_EQ(classes.members(own)[classes.position(i)], i);
    CHECK(std::is_sorted(classes.members(own), classes.members(own) + classes.size(own)));
    CHECK_EQ(classes.is_anchor(i), i != 3);
    CHECK_EQ(classes.anchors_before(i), i > 3 ? i - 1 : i);
  }
  CHECK_EQ(Classes(nullptr, 0).anchors(), 0);
  CHECK_EQ(Classes(std::vector<int64_t>{1, 1, 1}.data(), 3).anchors(), 0);
  CHECK_EQ(Classes(std::vector<int64_t>{1, 2, 3}.data(), 3).anchors(), 0);
}

TEST(smart_triplets_one_list_matches_hand_worked_values) {
  // n: negative, p: positive. n3 and p4 are within the bound.
  const Lists lists = first_list({0, 1, 0, 1, 0, 1, 0, 1}, {1, 2, 3, 4, 5, 6, 7}, {1, 2, 3, 3.5, 4, 5, 6});
  const Mined mined = lists.mine({2.0, 3, 9});
  CHECK_EQ(mined.triplet.size(), size_t{8 * 3 * 3});
  CHECK(std::equal(mined.triplet.begin(), mined.triplet.begin() + 4, std::vector<int64_t>{0, 6, 5, 0}.begin()));
  CHECK_EQ(mined.triplet[4], 4);  // the only positive that is not mined
  CHECK_EQ(mined.triplet[5], 7);
  CHECK(mined.mined[0] && mined.mined_positive[0] && mined.mined[1] && !mined.mined_positive[1] && !mined.mined[2]);
}

TEST(smart_triplets_whole_class_as_positives_is_mined) {
  const Mined mined = first_list({0, 0, 0, 1, 1}, {1, 2, 4}, {1, 2, 3}).mine({1.0, 1, 0});
  CHECK(std::equal(mined.triplet.begin(), mined.triplet.begin() + 3, std::vector<int64_t>{0, 2, 4}.begin()));
  CHECK(mined.mined_positive[0]);
}

TEST(smart_triplets_any_threads_give_same_result) {
  Lists<float> lists;
  constexpr int64_t kCount = 500, kLength = 12;
  for (int64_t i = 0; i < kCount; ++i) lists.label.push_back(i * i % 7);
  for (int64_t i = 0; i < kCount; ++i) {
    for (int64_t j = 0; j < kLength; ++j) {
      lists.index.push_back((i + 37 * j) % kCount);
      lists.distance.push_back(static_cast<float>(j / 2));
    }
  }
  const MiningOptions options{1.5, 4, 77};
  const Mined serial = lists.mine(options);
  CHECK(std::count(serial.mined.begin(), serial.mined.end(), 1) > kCount);
  CHECK(std::count(serial.mined.begin(), serial.mined.end(), 0) > 10);
  for (const auto& pool : hardmine::test::parallel_pools()) CHECK(lists.mine(options, *pool) == serial);
}

TEST(smart_triplets_first_invalid_row_is_reported) {
  // Threads take 64 lists at a time, so row 64 is reached long before row 63, which follows many triplets.
  Lists<float> lists;
  for (int64_t i = 0; i < 200; ++i) {
    lists.label.push_back(i % 3);
    lists.index.push_back(i == 63 || i == 64 ? 200 : -1);
    lists.distance.push_back(0);
  }
  CHECK(lists.error().ends_with("got 200 at [63, 0]"));
  for (const auto& pool : hardmine::test::parallel_pools()) CHECK_EQ(lists.error(*pool, 1000), lists.error());
}

TEST(smart_triplets_invalid_lists_are_errors) {
  const auto error = [](std::vector<int64_t> index, std::vector<double> distance) {
    return first_list({0, 0, 1}, std::move(index), std::move(distance)).error();
  };
  CHECK_EQ(error({1, 2, -1}, {1, 2, kNan}), "");
  for (const int64_t wrong : {int64_t{3}, int64_t{-2}, INT64_MAX, INT64_MIN, int64_t{1} << 32})
    CHECK(error({1, wrong}, {1, 2}).ends_with("got " + std::to_string(wrong) + " at [0, 1]"));
  CHECK(error({1, -1, 2}, {1, 2, 3}).ends_with("got 2 after -1 at [0, 2]"));
  CHECK(error({1, 2, 1}, {1, 2, 3}).ends_with("got 1 again at [0, 2]"));
  for (const double wrong : {kNan, kInf, -kInf, -1.0})
    CHECK(error({1}, {wrong}).starts_with("distances must be finite"));
  CHECK(error({1, 2}, {2, 1}).ends_with("got 1 after 2 at [0, 1]"));
}

TEST(smart_triplets_empty_inputs_give_no_mined_triplets) {
  CHECK(Lists<float>{}.mine({1.0, 1, 0}).triplet.empty());
  CHECK_EQ(first_list({0, 0, 1}, {}, {}).mine({1.0, 1, 0}).triplet.size(), size_t{2 * 3});
}
