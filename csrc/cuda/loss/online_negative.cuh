// The online negatives of one anchor, wherever a kernel left them.
#pragma once

#include "cuda/device/packed_key.cuh"
#include "cuda/loss/forward/forward_params.h"
#include "math/hinge.h"

namespace aoq::device {

template <class T>
struct OnlineNegative {
  Key<T> key;
  int64_t index;
  T sum, active;  // of the hinges, Online::kAll alone

  AOQ_DEVICE bool exists() const { return is_negative_key<T>(key); }
};

AOQ_DEVICE OnlineNegative<float> take_negative(const PackedNegatives& from, int64_t, int64_t i) {
  const uint64_t key = load_fresh(from.key + i);
  from.key[i] = kNoNegative;
  if (key == kNoNegative) return {kNoKey<float>, -1, 0, 0};
  return {packed_score_key(key), packed_index(key), 0, 0};
}

template <class T>
AOQ_DEVICE OnlineNegative<T> take_negative(const StagedNegatives<T>& from, int64_t count, int64_t i) {
  return {Key<T>(from.key[i]), from.key[count + i], from.hinge[i], from.hinge[count + i]};
}

template <class T>
AOQ_DEVICE OnlineHinge<T> online_hinge(const OnlineNegative<T>& negative, T positive, const LossParams& params) {
  if (!negative.exists()) return {T(0), T(0), T(0), false};
  const T hardest = key_score<T>(negative.key);
  if (params.online == Online::kAll) return {hardest, negative.sum, negative.active, true};
  const T value = T(params.margin_online) + hardest - positive;
  return {hardest, hinge(value), hinge_slope(value), true};
}

}  // namespace aoq::device
