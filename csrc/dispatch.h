// Dispatch on the dtype in which a loss is computed: float64 for float64 input, float32 for everything else.
#pragma once

#include <type_traits>

#include "stable_compat.h"

namespace aoq {

template <class T>
inline constexpr ScalarType kScalarType = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;

inline ScalarType compute_type(const Tensor& input) {
  return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls f with a value of the compute type: dispatch_compute_type(t, [&](auto zero) { using T = decltype(zero); … }).
template <class F>
auto dispatch_compute_type(const Tensor& input, F&& f) {
  return compute_type(input) == ScalarType::Double ? f(double{}) : f(float{});
}

}  // namespace aoq
