#include "cpu/vector.h"

#include <cmath>

#include "cpu/simd.h"

namespace aoq::cpu {
namespace {

// Σ f(x_d, y_d) over four accumulators, folded in a fixed order.
template <class T, class F>
AOQ_INLINE T accumulate(const T* x, const T* y, int64_t width, F f) {
  constexpr int64_t kLanes = Vector<T>::kLanes;
  typename Vector<T>::Type sums[4] = {};
  int64_t d = 0;
  for (; d + 4 * kLanes <= width; d += 4 * kLanes) {
    for (int64_t u = 0; u < 4; ++u) sums[u] += f(load(x + d + u * kLanes), load(y + d + u * kLanes));
  }
  for (; d + kLanes <= width; d += kLanes) sums[0] += f(load(x + d), load(y + d));
  T sum = sum_lanes<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; d < width; ++d) {
    T one_x[kLanes] = {x[d]}, one_y[kLanes] = {y[d]};
    sum += f(load(one_x), load(one_y))[0];
  }
  return sum;
}

template <class T>
AOQ_INLINE T dot_of(const T* x, const T* y, int64_t width) {
  return accumulate(x, y, width, [](auto a, auto b) AOQ_INLINE_LAMBDA { return a * b; });
}

template <class T>
AOQ_INLINE T order_distance_of(const T* x, const T* y, int64_t width) {
  const T square = accumulate(x, y, width, [](auto a, auto b) AOQ_INLINE_LAMBDA {
    const auto difference = b - a;
    const auto positive = difference <= 0 ? decltype(difference){} : difference;  // not difference·0: −∞·0 is NaN
    return positive * positive;
  });
  return std::sqrt(square);
}

template <class T>
AOQ_INLINE void weighted_sum_of(T* out, const T* scale, const T* const* rows, int64_t terms, int64_t width) {
  constexpr int64_t kLanes = Vector<T>::kLanes, kUnrolled = 8;  // long runs of each row, which the hardware prefetches
  int64_t d = 0;
  for (; d + kUnrolled * kLanes <= width; d += kUnrolled * kLanes) {
    typename Vector<T>::Type sums[kUnrolled] = {};
    for (int64_t t = 0; t < terms; ++t) {
      const T* row = rows[t] + d;
      for (int64_t u = 0; u < kUnrolled; ++u) sums[u] += scale[t] * load(row + u * kLanes);
    }
    for (int64_t u = 0; u < kUnrolled; ++u) store(out + d + u * kLanes, sums[u]);
  }
  for (; d < width; ++d) {
    T sum = T(0);
    for (int64_t t = 0; t < terms; ++t) sum += scale[t] * rows[t][d];
    out[d] = sum;
  }
}

}  // namespace

AOQ_SIMD float dot(const float* x, const float* y, int64_t width) { return dot_of(x, y, width); }
AOQ_SIMD double dot(const double* x, const double* y, int64_t width) { return dot_of(x, y, width); }

AOQ_SIMD float order_distance(const float* x, const float* y, int64_t width) { return order_distance_of(x, y, width); }
AOQ_SIMD double order_distance(const double* x, const double* y, int64_t width) {
  return order_distance_of(x, y, width);
}

AOQ_SIMD void weighted_sum(float* out, const float* scale, const float* const* rows, int64_t terms, int64_t width) {
  weighted_sum_of(out, scale, rows, terms, width);
}
AOQ_SIMD void weighted_sum(double* out, const double* scale, const double* const* rows, int64_t terms, int64_t width) {
  weighted_sum_of(out, scale, rows, terms, width);
}

AOQ_SIMD void add_order(float* sum, float scale, const float* x, const float* y, int64_t width) {
  for (int64_t d = 0; d < width; ++d) sum[d] += y[d] - x[d] <= 0 ? 0 : scale * (y[d] - x[d]);
}
AOQ_SIMD void add_order(double* sum, double scale, const double* x, const double* y, int64_t width) {
  for (int64_t d = 0; d < width; ++d) sum[d] += y[d] - x[d] <= 0 ? 0 : scale * (y[d] - x[d]);
}

}  // namespace aoq::cpu
