// From run-time flags to template parameters.
#pragma once

namespace hardmine::cpu::HARDMINE_TARGET {

// body.operator()<flags...>(): switch_bools([&]<bool kA, bool kB>() { ... }, a, b).
template <bool... kFlags, class Body>
inline __attribute__((always_inline)) auto switch_bools(const Body& body) {
  return body.template operator()<kFlags...>();
}
template <bool... kFlags, class Body, class... Rest>
inline __attribute__((always_inline)) auto switch_bools(const Body& body, bool flag, Rest... rest) {
  return flag ? switch_bools<kFlags..., true>(body, rest...) : switch_bools<kFlags..., false>(body, rest...);
}

}  // namespace hardmine::cpu::HARDMINE_TARGET
