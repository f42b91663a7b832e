// Storage types of the operands and the type each is computed in, for host and device.
#pragma once

#include <cstdint>
#include <type_traits>

namespace aoq::device {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

// float64 is computed in float64, everything else in float32.
template <class Element>
using Compute = std::conditional_t<std::is_same_v<Element, double>, double, float>;

}  // namespace aoq::device
