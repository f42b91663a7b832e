// The total order of (score, index) that defines "hardest": greater score first, then lower index; NaN is greatest,
// as in torch.max; −0 equals +0. Scores become integers of the same order, so that a maximum is an integer maximum.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "math/host_device.h"

namespace aoq {

template <class T>
using Key = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

// Below the key of every score, −inf included: "not a candidate".
template <class T>
inline constexpr Key<T> kNoKey = std::numeric_limits<Key<T>>::min();

template <class T>
AOQ_HOST_DEVICE Key<T> order_key(T score) {
  constexpr Key<T> kMagnitude = std::numeric_limits<Key<T>>::max();
  const T canonical = score + T(0);  // −0 + 0 = +0
  const Key<T> bits = std::bit_cast<Key<T>>(canonical);
  const Key<T> key = bits ^ ((bits >> (8 * sizeof(T) - 1)) & kMagnitude);
  return canonical != canonical ? kMagnitude : key;
}

// The score of a key; any NaN comes back as the quiet NaN.
template <class T>
AOQ_HOST_DEVICE T key_score(Key<T> key) {
  constexpr Key<T> kMagnitude = std::numeric_limits<Key<T>>::max();
  if (key == kMagnitude) return std::numeric_limits<T>::quiet_NaN();
  return std::bit_cast<T>(key ^ ((key >> (8 * sizeof(T) - 1)) & kMagnitude));
}

// A key at or below that of −inf is no negative: −inf masks a score.
template <class T>
AOQ_HOST_DEVICE bool is_negative_key(Key<T> key) {
  return key > order_key(-std::numeric_limits<T>::infinity());
}

}  // namespace aoq
