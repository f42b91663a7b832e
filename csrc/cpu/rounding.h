// From float64 to the float32 on its safe side.
#pragma once

#include <cmath>
#include <limits>

namespace aoq::cpu {

// The greatest float32 at or below a float64.
inline float round_down(double value) {
  const float nearest = static_cast<float>(value);
  return static_cast<double>(nearest) > value ? std::nextafter(nearest, -std::numeric_limits<float>::infinity())
                                              : nearest;
}

// The least float32 at or above a float64.
inline float round_up(double value) { return -round_down(-value); }

}  // namespace aoq::cpu
