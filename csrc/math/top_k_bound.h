// How far a fast product of two rows can be from their score: the float64 sum, rounded to float32.
#pragma once

#include <cstdint>
#include <limits>

#include "math/host_device.h"

namespace aoq {

// With u = 2⁻²⁴ and D terms summed in any order, with or without fused multiply-add (Higham, Accuracy and Stability of
// Numerical Algorithms, section 3.1),
//
//     |product − x·y| ≤ γ_D |x||y|,  γ_n = n u / (1 − n u);      |score − x·y| ≤ (u + D 2⁻⁵³ …) |x||y|,
//
// together at most γ_{D+3} |x||y|. A product that first rounds its inputs by a relative r adds (2r + r²) |x||y| and
// stretches the rest by (1 + r)². Lengthening both rows by 2⁻⁴⁸ covers underflow, flushed denormals included, which
// adds at most D 2⁻¹²⁵ + √D 2⁻¹²⁶ (|x| + |y|); the last factor covers the rounding of the bound itself.
AOQ_HOST_DEVICE double product_error(int64_t terms, double input_rounding, double x_norm, double y_norm) {
  constexpr double kUnit = 0x1p-24, kLengthening = 0x1p-48, kRounding = 1 + 0x1p-20;
  const double n_u = static_cast<double>(terms + 3) * kUnit;
  if (!(n_u < 0.5)) return std::numeric_limits<double>::infinity();
  const double stretch = 1 + input_rounding;
  const double relative = (stretch * stretch - 1) + stretch * stretch * n_u / (1 - n_u);
  return relative * (x_norm + kLengthening) * (y_norm + kLengthening) * kRounding;
}

}  // namespace aoq
