// Every MmaPolicy, with every type of rows that it is used for.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "cuda/device/launch.h"
#include "cuda/gemm/mma_policy.h"
#include "support/check.h"
#include "support/samples.h"

namespace hardmine::test {

template <class MmaPolicy_, class Scalar_>
struct Way {
  using MmaPolicy = MmaPolicy_;
  using Scalar = Scalar_;
  using acc_t = typename MmaPolicy::acc_t;
  const char* name;
};

template <class Use>
void for_products(const Use& use) {
  use(Way<cuda::FloatProducts, float>{"float"});
  use(Way<cuda::DoubleProducts, double>{"double"});
  use(Way<cuda::Tf32Products, float>{"tf32"});
  use(Way<cuda::Bfloat16Products, cuda::BFloat16>{"bfloat16"});
  use(Way<cuda::Float16Products, cuda::Float16>{"float16"});
}

template <class Use>
void for_squared_differences(const Use& use) {
  use(Way<cuda::FloatSquaredDifferences, float>{"squared differences of float"});
  use(Way<cuda::DoubleSquaredDifferences, double>{"squared differences of double"});
  use(Way<cuda::FloatSquaredDifferences, cuda::BFloat16>{"squared differences of bfloat16"});
  use(Way<cuda::FloatSquaredDifferences, cuda::Float16>{"squared differences of float16"});
}

template <class Scalar>
std::vector<Scalar> converted(const std::vector<double>& x) {
  std::vector<Scalar> y;
  for (const double value : x) {
    if constexpr (std::is_same_v<Scalar, double>) {
      y.push_back(value);
    } else {
      y.push_back(cuda::from_acc<Scalar>(static_cast<float>(value)));
    }
  }
  return y;
}

// Orders of blocks and threads. Results must have the same bits for all of them.
struct Running {
  cuda::emulation::Order order;
  int64_t max_blocks;
};
inline constexpr Running kRunnings[] = {{cuda::emulation::Order::kAscending, cuda::kMaxBlocks},
                                        {cuda::emulation::Order::kDescending, cuda::kMaxBlocks},
                                        {cuda::emulation::Order::kShuffled, 3},
                                        {cuda::emulation::Order::kShuffled, 1},
                                        {cuda::emulation::Order::kDescending, 3}};

inline Deck<Running> deal_runnings() { return Deck(std::vector<Running>(std::begin(kRunnings), std::end(kRunnings))); }

// Sets the order of threads for its lifetime.
class WithOrder {
 public:
  explicit WithOrder(cuda::emulation::Order order) { cuda::emulation::set_order(order, 5); }
  ~WithOrder() { cuda::emulation::set_order(cuda::emulation::Order::kAscending); }
  WithOrder(const WithOrder&) = delete;
  WithOrder& operator=(const WithOrder&) = delete;
};

}  // namespace hardmine::test
