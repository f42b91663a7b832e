// The types in which embedding rows are stored, and those in which they are computed.
#pragma once

#include <cstdint>
#include <type_traits>

#include "dispatch.h"

namespace aoq::cpu {

struct Bfloat16 {
  uint16_t bits;
};

// Sums and products of rows of S.
template <class S>
using Compute = std::conditional_t<std::is_same_v<S, Bfloat16>, float, S>;

template <class S>
inline constexpr ScalarType kStorageType = ScalarType::BFloat16;
template <>
inline constexpr ScalarType kStorageType<float> = ScalarType::Float;
template <>
inline constexpr ScalarType kStorageType<double> = ScalarType::Double;

// Calls f with a value of the storage type. Half precision is widened to float32 first, except bfloat16 where kept.
template <class F>
auto dispatch_storage(const Tensor& input, bool keep_bfloat16, F&& f) {
  if (keep_bfloat16 && input.scalar_type() == ScalarType::BFloat16) return f(Bfloat16{});
  return compute_type(input) == ScalarType::Double ? f(double{}) : f(float{});
}

}  // namespace aoq::cpu
