// Functions of whole vectors of float32.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/product/simd.h"

namespace aoq::cpu {

using Floats = Vector<float>::Type;
inline constexpr int64_t kFloatLanes = Vector<float>::kLanes;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

AOQ_INLINE Floats splat(float value) { return Floats{} + value; }
AOQ_INLINE Floats maximum(const Floats& a, const Floats& b) { return a > b ? a : b; }

AOQ_INLINE float max_lanes(const Floats& value) {
  return fold_lanes<float>(value, [](const auto& a, const auto& b) AOQ_INLINE_LAMBDA { return a > b ? a : b; });
}

AOQ_INLINE Floats square_root(const Floats& value) {
  float lanes[kFloatLanes];
  std::memcpy(lanes, &value, kVectorBytes);
  for (float& lane : lanes) lane = std::sqrt(lane);
  return load(lanes);
}

// e^x for x ≤ 88, to about one unit in the last place; 0 where that is not a normal number.
AOQ_INLINE Floats exponential(const Floats& x) {
  typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
  constexpr float kSmallest = -87.3365f, kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // the first has few bits: n · it is exact
  constexpr float kRound = 12582912.0f;                                // 1.5 · 2²³: what is added to it is rounded
  const Floats bounded = maximum(x, splat(kSmallest));
  const Floats n = (bounded * kLog2E + kRound) - kRound;
  const Floats r = (bounded - n * kLn2High) - n * kLn2Low;  // |r| ≤ ln 2 / 2
  // Cephes' minimax polynomial of (e^r − 1 − r) / r².
  Floats p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  const Floats result = p * Floats(exponent);
  return x < kSmallest ? Floats{} : result;
}

}  // namespace aoq::cpu
