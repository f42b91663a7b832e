// The emulator's twin of csrc/cuda/device/primitives.cuh, which documents the functions and includes this file.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "simt/arithmetic.h"
#include "simt/collectives.h"
#include "simt/memory.h"

#define AOQ_DEVICE inline

namespace aoq::device {

using simt::Site;

inline int thread_index() { return simt::thread_index(); }
inline int lane_index() { return simt::thread_index() % kWarpSize; }
inline int warp_index() { return simt::thread_index() / kWarpSize; }
inline unsigned block_index() { return simt::block_index(); }
inline unsigned block_count() { return simt::block_count(); }
inline char* shared_memory() { return simt::shared_memory(); }

inline void sync_block(const Site& site = Site::current()) { simt::sync_block(site); }
inline void sync_warp(unsigned mask = kFullMask, const Site& site = Site::current()) {
  simt::collective(mask, site, nullptr, nullptr, /*orders_memory=*/true);
}

template <class T>
inline T shuffle_from(T value, int source, unsigned mask, const Site& site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = simt::shuffle(bits, source, mask, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
inline T shuffle(T value, int source, unsigned mask = kFullMask, const Site& site = Site::current()) {
  return shuffle_from(value, source & (kWarpSize - 1), mask, site);
}
template <class T>
inline T shuffle_xor(T value, int lane_mask, unsigned mask = kFullMask, const Site& site = Site::current()) {
  return shuffle_from(value, (lane_index() ^ lane_mask) & (kWarpSize - 1), mask, site);
}
template <class T>
inline T shuffle_down(T value, int delta, unsigned mask = kFullMask, const Site& site = Site::current()) {
  const int source = lane_index() + delta;
  return shuffle_from(value, source < kWarpSize ? source : lane_index(), mask, site);
}

inline unsigned ballot(bool predicate, unsigned mask = kFullMask, const Site& site = Site::current()) {
  return simt::ballot(predicate, mask, site);
}

inline int popcount(unsigned bits) { return std::popcount(bits); }
inline int lowest_bit(unsigned bits) { return bits == 0 ? -1 : std::countr_zero(bits); }

inline uint64_t atomic_max(uint64_t* address, uint64_t value) {
  simt::atomic_access(address, /*writes=*/true);
  uint64_t old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (old < value && !__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
inline uint32_t atomic_add(uint32_t* address, uint32_t value) {
  simt::atomic_access(address, /*writes=*/true);
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline void thread_fence() { simt::thread_fence(); }

inline uint64_t load_relaxed(const uint64_t* address) {
  simt::atomic_access(address, /*writes=*/false);
  return __atomic_load_n(address, __ATOMIC_RELAXED);
}

template <class T>
inline T load_fresh(const T* address) {
  return *address;
}

inline void copy_async_16(void* shared, const void* global, int valid_bytes = 16, const Site& site = Site::current()) {
  simt::copy_async(shared, global, valid_bytes, site);
}
inline void copy_async_commit() { simt::copy_async_commit(); }
template <int kPending>
inline void copy_async_wait() {
  simt::copy_async_wait(kPending);
}

inline void load_matrix_x4(uint32_t (&words)[4], const void* shared_row, const Site& site = Site::current()) {
  simt::load_matrix_x4(words, shared_row, site);
}

template <class Element>
inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                        const Site& site = Site::current()) {
  static_assert(std::is_same_v<Element, BFloat16> || std::is_same_v<Element, Half>);
  simt::mma(std::is_same_v<Element, BFloat16> ? simt::Operand::kBFloat16 : simt::Operand::kHalf, c, a, b, site);
}
inline void mma_16x8x8_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                            const Site& site = Site::current()) {
  simt::mma(simt::Operand::kTf32, c, a, b, site);
}

inline uint32_t to_tf32(float value) { return simt::round_to_tf32(value); }
inline float half_to_float(uint16_t bits) { return simt::half_to_float(bits); }
inline uint16_t float_to_half(float value) { return simt::float_to_half(value); }

inline float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline double fused_multiply_add(double a, double b, double c) { return std::fma(a, b, c); }

inline float max_or_nan(float a, float b) {
  if (a != a || b != b) return std::numeric_limits<float>::quiet_NaN();
  return a < b || (a == b && std::signbit(a)) ? b : a;
}

}  // namespace aoq::device
