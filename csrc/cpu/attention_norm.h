// The products of each fragment, normalised over the queries: the logits of the attention, and their gradient.
#pragma once

#include <type_traits>

#include "cpu/attention_tile.h"
#include "cpu/vector_math.h"

namespace aoq::cpu {

template <FeatureNorm kNorm>
using NormTag = std::integral_constant<FeatureNorm, kNorm>;

// Calls f with the norm as a constant.
template <class F>
AOQ_INLINE void with_norm(FeatureNorm norm, F f) {
  switch (norm) {
    case FeatureNorm::kSoftmax: return f(NormTag<FeatureNorm::kSoftmax>{});
    case FeatureNorm::kL2: return f(NormTag<FeatureNorm::kL2>{});
    case FeatureNorm::kClippedL2: return f(NormTag<FeatureNorm::kClippedL2>{});
    case FeatureNorm::kL1: return f(NormTag<FeatureNorm::kL1>{});
    case FeatureNorm::kClippedL1: return f(NormTag<FeatureNorm::kClippedL1>{});
    case FeatureNorm::kClipped: return f(NormTag<FeatureNorm::kClipped>{});
    case FeatureNorm::kNone: return f(NormTag<FeatureNorm::kNone>{});
  }
}

// One vector of fragments, from fragment `first` on, and all queries.
template <FeatureNorm kNorm>
struct FragmentNorm {
  static constexpr bool kClips =
      kNorm == FeatureNorm::kClippedL2 || kNorm == FeatureNorm::kClippedL1 || kNorm == FeatureNorm::kClipped;
  static constexpr bool kByLength = kNorm == FeatureNorm::kL2 || kNorm == FeatureNorm::kClippedL2;
  static constexpr bool kBySum = kNorm == FeatureNorm::kL1 || kNorm == FeatureNorm::kClippedL1;
  static constexpr bool kDivides = kByLength || kBySum;

  const float* products;  // (Q, stride), from the vector's first lane on
  const int64_t stride, queries;
  Floats length{};   // of the fragment's products, in the norm's sense
  Floats largest{};  // product; of kSoftmax

  AOQ_INLINE FragmentNorm(const AttentionTile& tile, int64_t first)
      : products(tile.products + first), stride(tile.stride), queries(tile.queries) {
    if constexpr (kByLength) {
      for (int64_t q = 0; q < queries; ++q) length += value(q) * value(q);
      length = square_root(length);
    } else if constexpr (kBySum) {
      for (int64_t q = 0; q < queries; ++q) length += value(q) < 0 ? -value(q) : value(q);
    } else if constexpr (kNorm == FeatureNorm::kSoftmax) {
      largest = product(0);
      for (int64_t q = 1; q < queries; ++q) largest = maximum(largest, product(q));
      for (int64_t q = 0; q < queries; ++q) length += exponential(product(q) - largest);
    }
  }

  AOQ_INLINE Floats product(int64_t q) const { return load(products + q * stride); }
  AOQ_INLINE Floats slope(int64_t q) const { return product(q) > 0 ? splat(1.0f) : splat(kClippedSlope); }
  AOQ_INLINE Floats value(int64_t q) const { return kClips ? product(q) * slope(q) : product(q); }

  AOQ_INLINE Floats normalised(int64_t q) const {
    if constexpr (kDivides) {
      return value(q) / (length + kSmallestNorm);
    } else if constexpr (kNorm == FeatureNorm::kSoftmax) {
      return exponential(product(q) - largest) / length;
    } else {
      return value(q);
    }
  }

  // by_normalised(q): ∂loss/∂normalised(q). into(q, ∂loss/∂product(q))
  template <class From, class Into>
  AOQ_INLINE void differentiate(From by_normalised, Into into) const {
    const Floats inverse = 1.0f / (length + kSmallestNorm);
    // A length of 0 is a constant: the root has no derivative there.
    const Floats to_direction = length > 0 ? 1.0f / (length > 0 ? length : splat(1.0f)) : Floats{};
    Floats common{};  // Σ_q ∂loss/∂normalised(q) · normalised(q), which the products of all queries share
    if constexpr (kDivides) {
      for (int64_t q = 0; q < queries; ++q) common += by_normalised(q) * value(q);
      common *= inverse;
    } else if constexpr (kNorm == FeatureNorm::kSoftmax) {
      for (int64_t q = 0; q < queries; ++q) common += by_normalised(q) * normalised(q);
    }
    for (int64_t q = 0; q < queries; ++q) {
      Floats by_value = by_normalised(q);
      if constexpr (kByLength) {
        by_value = (by_value - common * (value(q) * to_direction)) * inverse;
      } else if constexpr (kBySum) {
        const Floats sign = value(q) > 0 ? splat(1.0f) : (value(q) < 0 ? splat(-1.0f) : Floats{});
        by_value = (by_value - common * sign) * inverse;
      } else if constexpr (kNorm == FeatureNorm::kSoftmax) {
        by_value = normalised(q) * (by_value - common);
      }
      into(q, kClips ? by_value * slope(q) : by_value);
    }
  }
};

}  // namespace aoq::cpu
