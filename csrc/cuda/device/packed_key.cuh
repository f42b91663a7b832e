// (float32 score, index) as one unsigned integer whose maximum is the hardest negative: higher score, then lower index.
#pragma once

#include "cuda/device/primitives.cuh"
#include "math/order.h"

namespace aoq::device {

inline constexpr uint64_t kNoNegative = 0;  // below the key of every score

AOQ_DEVICE uint32_t biased_key(float score) { return uint32_t(order_key(score)) ^ 0x80000000u; }

AOQ_DEVICE uint64_t pack_key(float score, uint32_t index) {
  return uint64_t(biased_key(score)) << 32 | uint32_t(~index);
}

AOQ_DEVICE int32_t packed_score_key(uint64_t key) { return int32_t(uint32_t(key >> 32) ^ 0x80000000u); }

AOQ_DEVICE uint32_t packed_index(uint64_t key) { return ~uint32_t(key); }

}  // namespace aoq::device
