#include "cpu/mine_score.h"

#include <cmath>

#include "cpu/simd.h"

namespace aoq::cpu {

namespace {

// Sixteen partial sums, folded in halves. Products of float32 values are exact in float64, so with or without fused
// multiply-add the bits are the same.
AOQ_INLINE double ordered_dot(const float* x, const float* y, int64_t width) {
  constexpr int64_t kVector = Vector<double>::kLanes, kLanes = 2 * kVector;
  double sums[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= width; d += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) sums[l] += static_cast<double>(x[d + l]) * static_cast<double>(y[d + l]);
  }
  for (int64_t l = 0; d + l < width; ++l) sums[l] += static_cast<double>(x[d + l]) * static_cast<double>(y[d + l]);
  return sum_lanes<double>(load(sums) + load(sums + kVector));
}

}  // namespace

AOQ_SIMD float exact_score(const float* x, const float* y, int64_t width) {
  return static_cast<float>(ordered_dot(x, y, width));
}

AOQ_SIMD void rescore(TopKKey* keys, int64_t count, const float* row, const float* others, int64_t width) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t index = top_k_index(keys[i]);
    keys[i] = top_k_key(static_cast<float>(ordered_dot(row, others + index * width, width)), index);
  }
}

AOQ_SIMD double euclidean_norm(const float* row, int64_t width) { return std::sqrt(ordered_dot(row, row, width)); }

}  // namespace aoq::cpu
