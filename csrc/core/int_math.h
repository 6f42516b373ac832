// Integer arithmetic that index computations share, on host and device.
#pragma once

#include "core/host_device.h"

namespace hardmine {

// n / step, rounded up, for n >= 0.
template <class N, class Step>
HARDMINE_HD constexpr auto ceil_div(N n, Step step) {
  return (n + step - 1) / step;
}

// The smallest multiple of `step` that is at least n, for n >= 0.
template <class N, class Step>
HARDMINE_HD constexpr auto round_up(N n, Step step) {
  return ceil_div(n, step) * step;
}

// The largest multiple of `step` that is at most n, for n >= 0.
template <class N, class Step>
HARDMINE_HD constexpr auto round_down(N n, Step step) {
  return n / step * step;
}

// The smallest power of two that is at least n.
template <class N>
HARDMINE_HD constexpr N next_power_of_two(N n) {
  N power = 1;
  while (power < n) power *= 2;
  return power;
}

// The first index in [begin, end) for which is_before(index) is false, or `end`. is_before must be true for a prefix of
// the range and false for the rest. A lower bound is is_before(i) = (sorted[i] < value).
template <class I, class IsBefore>
HARDMINE_HD constexpr I partition_point(I begin, I end, const IsBefore& is_before) {
  while (begin < end) {
    const I middle = begin + (end - begin) / 2;
    if (is_before(middle)) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

}  // namespace hardmine
