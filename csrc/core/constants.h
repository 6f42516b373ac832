// Numbers that change the base of exponentials.
#pragma once

namespace hardmine {

inline constexpr double kLog2E = 1.44269504088896340736;
inline constexpr double kLn2 = 0.69314718055994530942;

}  // namespace hardmine
