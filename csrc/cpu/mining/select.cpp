#include "cpu/mining/select.h"

#include <algorithm>

#include "cpu/product/simd.h"

namespace aoq::cpu {

AOQ_SIMD float bound_kth_score(const TopKKey* keys, int64_t count, int64_t k, int64_t most) {
  constexpr int kMaxSteps = 40;
  TopKKey least = keys[0], greatest = keys[0];
  for (int64_t i = 1; i < count; ++i) {
    least = std::min(least, keys[i]);
    greatest = std::max(greatest, keys[i]);
  }
  float low = top_k_score(least), high = top_k_score(greatest);
  int64_t reach_low = count;
  for (int step = 0; step < kMaxSteps && reach_low > most; ++step) {
    const float middle = 0.5f * low + 0.5f * high;
    if (!(low < middle && middle < high)) break;
    const TopKKey floor = top_k_floor(middle);
    int64_t reach_middle = 0;
    for (int64_t i = 0; i < count; ++i) reach_middle += keys[i] >= floor;
    if (reach_middle >= k) {
      low = middle;
      reach_low = reach_middle;
    } else {
      high = middle;
    }
  }
  return low;
}

int64_t keep_at_least(TopKKey* keys, int64_t count, TopKKey floor) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const TopKKey key = keys[i];
    keys[kept] = key;
    kept += key >= floor;
  }
  return kept;
}

}  // namespace aoq::cpu
