#include "cpu/mining/exact_score.h"

#include <algorithm>
#include <cmath>

#include "cpu/product/simd.h"

namespace aoq::cpu {

namespace {

using Doubles = Vector<double>::Type;
constexpr int64_t kVector = Vector<double>::kLanes, kLanes = 2 * kVector;

AOQ_INLINE Doubles load_wide(const float* from) {
  typedef float Floats __attribute__((vector_size(kVectorBytes / 2)));
  Floats values;
  std::memcpy(&values, from, sizeof(values));
  return __builtin_convertvector(values, Doubles);
}

// Sixteen partial sums of x with each of kRows rows, folded in halves. Products of float32 values are exact in float64,
// so with or without fused multiply-add the bits are the same. Several rows at a time share what is read of x, and the
// processor waits for one while it sums another.
template <int kRows>
AOQ_INLINE void ordered_dots(const float* x, const float* const (&rows)[kRows], int64_t width, double (&dots)[kRows]) {
  Doubles low[kRows], high[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) low[r] = high[r] = Doubles{};
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    const Doubles x_low = load_wide(x + d), x_high = load_wide(x + d + kVector);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      low[r] += x_low * load_wide(rows[r] + d);
      high[r] += x_high * load_wide(rows[r] + d + kVector);
    }
  }
  const int64_t rest = width - d;
  float x_rest[kLanes] = {}, row_rest[kLanes] = {};
  std::memcpy(x_rest, x + d, rest * sizeof(float));
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if (rest > 0) {  // sums never are −0, so adding zeros changes none
      std::memcpy(row_rest, rows[r] + d, rest * sizeof(float));
      low[r] += load_wide(x_rest) * load_wide(row_rest);
      high[r] += load_wide(x_rest + kVector) * load_wide(row_rest + kVector);
    }
    dots[r] = sum_lanes<double>(low[r] + high[r]);
  }
}

template <int kRows>
AOQ_INLINE void rescore_some(TopKKey* keys, const float* row, const float* others, int64_t width) {
  const float* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = others + top_k_index(keys[r]) * width;
  double dots[kRows];
  ordered_dots(row, rows, width, dots);
  for (int r = 0; r < kRows; ++r) keys[r] = top_k_key(static_cast<float>(dots[r]), top_k_index(keys[r]));
}

AOQ_INLINE void prefetch_row(const float* row, int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t d = 0; d < width; d += kLine) __builtin_prefetch(row + d);
}

}  // namespace

AOQ_SIMD void rescore(TopKKey* keys, int64_t count, const float* row, const float* others, int64_t width) {
  constexpr int64_t kAtATime = 4;
  int64_t i = 0;
  for (; i + kAtATime <= count; i += kAtATime) {
    for (int64_t ahead = i + kAtATime; ahead < std::min(i + 2 * kAtATime, count); ++ahead) {
      prefetch_row(others + top_k_index(keys[ahead]) * width, width);
    }
    rescore_some<kAtATime>(keys + i, row, others, width);
  }
  for (; i < count; ++i) rescore_some<1>(keys + i, row, others, width);
}

AOQ_SIMD double euclidean_norm(const float* row, int64_t width) {
  double square[1];
  ordered_dots<1>(row, {row}, width, square);
  return std::sqrt(square[0]);
}

}  // namespace aoq::cpu
