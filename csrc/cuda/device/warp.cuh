// Sums over a warp and over a block, added in an order that depends on nothing but their size.
#pragma once

#include "cuda/device/primitives.cuh"

namespace aoq::device {

// Combines the values of lanes that differ in the bits kFirst, 2·kFirst, …, kLast; every one of them gets the result.
template <int kFirst, int kLast, class T, class Combine>
AOQ_DEVICE T combine_lanes(T value, Combine combine) {
#pragma unroll
  for (int bit = kFirst; bit <= kLast; bit *= 2) value = combine(value, shuffle_xor(value, bit));
  return value;
}

template <class T>
AOQ_DEVICE T warp_sum(T value) {
  return combine_lanes<1, kWarpSize / 2>(value, [](T a, T b) { return a + b; });
}

// The sum over a block of kThreads threads, in thread 0. `scratch` is shared, kThreads / 32 long, and free again when
// the block has next met at a barrier.
template <int kThreads, class T>
AOQ_DEVICE T block_sum(T value, T* scratch) {
  static_assert(kThreads % kWarpSize == 0);
  value = warp_sum(value);
  if (lane_index() == 0) scratch[warp_index()] = value;
  sync_block();
  if (thread_index() != 0) return T(0);
  T sum = scratch[0];
  for (int warp = 1; warp < kThreads / kWarpSize; ++warp) sum += scratch[warp];
  return sum;
}

}  // namespace aoq::device
