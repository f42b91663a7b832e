#include "cpu/product/vector.h"

#include <algorithm>
#include <cmath>

#include "cpu/product/simd.h"

namespace aoq::cpu {
namespace {

// Rows are read and written in vectors of their compute type.
template <class S>
AOQ_INLINE auto load_row(const S* from) {
  if constexpr (std::is_same_v<S, Bfloat16>) {
    typedef uint16_t Bits __attribute__((vector_size(kVectorBytes / 2)));
    typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
    Bits bits;
    std::memcpy(&bits, from, sizeof(bits));
    return Vector<float>::Type(__builtin_convertvector(bits, Words) << 16);
  } else {
    return load(from);
  }
}

// Bfloat16 rounds to the nearest, ties to even; NaN stays NaN.
template <class S>
AOQ_INLINE void store_row(S* to, const typename Vector<Compute<S>>::Type& value) {
  if constexpr (std::is_same_v<S, Bfloat16>) {
    typedef uint16_t Bits __attribute__((vector_size(kVectorBytes / 2)));
    typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
    const Words words = Words(value), rounded = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
    const Bits bits = __builtin_convertvector(value == value ? rounded : (words >> 16) | 0x40, Bits);
    std::memcpy(to, &bits, sizeof(bits));
  } else {
    store(to, value);
  }
}

// The last elements of a row, with zeros after them.
template <class S>
AOQ_INLINE auto load_rest(const S* from, int64_t count) {
  S padded[Vector<Compute<S>>::kLanes] = {};
  std::memcpy(padded, from, count * sizeof(S));
  return load_row(padded);
}

// Σ f(x_d, y_d) over four accumulators, folded in a fixed order; f(0, 0) is 0.
template <class S, class F>
AOQ_INLINE Compute<S> accumulate(const S* x, const S* y, int64_t width, F f) {
  using T = Compute<S>;
  constexpr int64_t kLanes = Vector<T>::kLanes;
  typename Vector<T>::Type sums[4] = {};
  int64_t d = 0;
  for (; d + 4 * kLanes <= width; d += 4 * kLanes) {
    for (int64_t u = 0; u < 4; ++u) sums[u] += f(load_row(x + d + u * kLanes), load_row(y + d + u * kLanes));
  }
  for (; d + kLanes <= width; d += kLanes) sums[0] += f(load_row(x + d), load_row(y + d));
  if (d < width) sums[1] += f(load_rest(x + d, width - d), load_rest(y + d, width - d));
  return sum_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class S>
AOQ_INLINE Compute<S> dot_of(const S* x, const S* y, int64_t width) {
  return accumulate(x, y, width, [](auto a, auto b) AOQ_INLINE_LAMBDA { return a * b; });
}

template <class S>
AOQ_INLINE Compute<S> order_distance_of(const S* x, const S* y, int64_t width) {
  const Compute<S> square = accumulate(x, y, width, [](auto a, auto b) AOQ_INLINE_LAMBDA {
    const auto difference = b - a;
    const auto positive = difference <= 0 ? decltype(difference){} : difference;  // not difference·0: −∞·0 is NaN
    return positive * positive;
  });
  return std::sqrt(square);
}

template <class S>
AOQ_INLINE void weighted_sum_of(S* out, const Compute<S>* scale, const S* const* rows, int64_t terms, int64_t width) {
  using T = Compute<S>;
  constexpr int64_t kLanes = Vector<T>::kLanes, kUnrolled = 8;  // long runs of each row, which the hardware prefetches
  int64_t d = 0;
  for (; d + kUnrolled * kLanes <= width; d += kUnrolled * kLanes) {
    typename Vector<T>::Type sums[kUnrolled] = {};
    for (int64_t t = 0; t < terms; ++t) {
      const S* row = rows[t] + d;
      for (int64_t u = 0; u < kUnrolled; ++u) sums[u] += scale[t] * load_row(row + u * kLanes);
    }
    for (int64_t u = 0; u < kUnrolled; ++u) store_row(out + d + u * kLanes, sums[u]);
  }
  for (; d < width; d += kLanes) {
    const int64_t rest = std::min(kLanes, width - d);
    typename Vector<T>::Type sum = {};
    for (int64_t t = 0; t < terms; ++t) sum += scale[t] * load_rest(rows[t] + d, rest);
    S padded[kLanes];
    store_row(padded, sum);
    std::memcpy(out + d, padded, rest * sizeof(S));
  }
}

}  // namespace

AOQ_SIMD float dot(const float* x, const float* y, int64_t width) { return dot_of(x, y, width); }
AOQ_SIMD double dot(const double* x, const double* y, int64_t width) { return dot_of(x, y, width); }
AOQ_SIMD float dot(const Bfloat16* x, const Bfloat16* y, int64_t width) { return dot_of(x, y, width); }

AOQ_SIMD float order_distance(const float* x, const float* y, int64_t width) { return order_distance_of(x, y, width); }
AOQ_SIMD double order_distance(const double* x, const double* y, int64_t width) {
  return order_distance_of(x, y, width);
}
AOQ_SIMD float order_distance(const Bfloat16* x, const Bfloat16* y, int64_t width) {
  return order_distance_of(x, y, width);
}

AOQ_SIMD void weighted_sum(float* out, const float* scale, const float* const* rows, int64_t terms, int64_t width) {
  weighted_sum_of(out, scale, rows, terms, width);
}
AOQ_SIMD void weighted_sum(double* out, const double* scale, const double* const* rows, int64_t terms, int64_t width) {
  weighted_sum_of(out, scale, rows, terms, width);
}

AOQ_SIMD void weighted_sum(Bfloat16* out, const float* scale, const Bfloat16* const* rows, int64_t terms,
                           int64_t width) {
  weighted_sum_of(out, scale, rows, terms, width);
}

AOQ_SIMD void add_order(float* sum, float scale, const float* x, const float* y, int64_t width) {
  for (int64_t d = 0; d < width; ++d) sum[d] += y[d] - x[d] <= 0 ? 0 : scale * (y[d] - x[d]);
}
AOQ_SIMD void add_order(double* sum, double scale, const double* x, const double* y, int64_t width) {
  for (int64_t d = 0; d < width; ++d) sum[d] += y[d] - x[d] <= 0 ? 0 : scale * (y[d] - x[d]);
}

}  // namespace aoq::cpu
