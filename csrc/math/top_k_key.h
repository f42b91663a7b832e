// (score, candidate) as one integer: greater means harder, that is, higher score first, then lower index.
#pragma once

#include "math/order.h"

namespace aoq {

using TopKKey = int64_t;

// Below every key: fills a list that is not full.
inline constexpr TopKKey kNoTopKKey = std::numeric_limits<TopKKey>::min();

AOQ_HOST_DEVICE TopKKey top_k_key(float score, uint32_t index) {
  return static_cast<TopKKey>((static_cast<uint64_t>(static_cast<uint32_t>(order_key(score))) << 32) | ~index);
}

AOQ_HOST_DEVICE float top_k_score(TopKKey key) { return key_score<float>(static_cast<int32_t>(key >> 32)); }

AOQ_HOST_DEVICE uint32_t top_k_index(TopKKey key) { return ~static_cast<uint32_t>(key); }

// The least key of a score: every key of that score or a higher one is at least this.
AOQ_HOST_DEVICE TopKKey top_k_floor(float score) { return top_k_key(score, ~uint32_t(0)); }

}  // namespace aoq
