// From float64 bounds to float32 ones that are no narrower.
#pragma once

#include "math/order.h"

namespace aoq {

// The greatest float32 at or below a float64.
AOQ_HOST_DEVICE float float_below(double value) {
  const float nearest = static_cast<float>(value);
  return static_cast<double>(nearest) > value ? key_score<float>(order_key(nearest) - 1) : nearest;
}

// The least float32 at or above a float64.
AOQ_HOST_DEVICE float float_above(double value) { return -float_below(-value); }

}  // namespace aoq
