// How far a fast product of two rows can be from their score: the float64 sum, rounded to float32.
#pragma once

#include <cstdint>
#include <limits>

#include "math/host_device.h"

namespace aoq {

// A row x, and what the product reads in its place, x̃: |x| ≤ norm, |x − x̃| ≤ distance.
struct RowBound {
  double norm, distance;
};

// Of sums that round to nearest in float32.
inline constexpr double kFloatUnit = 0x1p-24;

// The product sums the D terms x̃ᵢỹᵢ in any order, with or without fused multiply-add; no term goes through more than
// `additions` of them, each off by at most a relative u (Higham, Accuracy and Stability of Numerical Algorithms,
// section 3.1):
//
//     |product − x̃·ỹ| ≤ γ_{additions + 1} |x̃||ỹ|,  γ_n = n u / (1 − n u), the one for rounding a term by itself;
//     |score − x·y| ≤ (2⁻²⁴ + D 2⁻⁵³ …) |x||y|;      |x̃·ỹ − x·y| ≤ |x − x̃||y| + |x̃||y − ỹ|.
//
// γ_{additions + 3} covers the first two, for D < 2²⁸. Lengthening both rows by 2⁻⁴⁸ covers underflow, flushed
// denormals included, which adds at most D 2⁻¹²⁵ + √D 2⁻¹²⁶ (|x| + |y|); the last factor covers the rounding of the
// bound itself.
AOQ_HOST_DEVICE double product_error(int64_t additions, double unit, const RowBound& x, const RowBound& y) {
  constexpr double kLengthening = 0x1p-48, kRounding = 1 + 0x1p-20;
  const double n_u = static_cast<double>(additions + 3) * unit;
  if (!(n_u < 0.5)) return std::numeric_limits<double>::infinity();
  const double x_read = x.norm + x.distance + kLengthening, y_read = y.norm + y.distance + kLengthening;
  const double inputs = x.distance * (y.norm + kLengthening) + x_read * y.distance;
  return (inputs + n_u / (1 - n_u) * x_read * y_read) * kRounding;
}

}  // namespace aoq
