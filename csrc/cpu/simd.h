// One source, compiled for three instruction sets and chosen at load time; and a vector type that follows the set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define AOQ_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define AOQ_SIMD
#endif
#define AOQ_INLINE inline __attribute__((always_inline))
#define AOQ_INLINE_LAMBDA __attribute__((always_inline))

namespace aoq::cpu {

inline constexpr int64_t kVectorBytes = 64;

// The compiler splits it where registers are narrower. Sums over its lanes have a fixed order on every machine.
template <class T>
struct Vector {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  static constexpr int64_t kLanes = kVectorBytes / sizeof(T);
};

template <class T>
AOQ_INLINE typename Vector<T>::Type load(const T* from) {
  typename Vector<T>::Type value;
  std::memcpy(&value, from, kVectorBytes);
  return value;
}

template <class T>
AOQ_INLINE void store(T* to, const typename Vector<T>::Type& value) {
  std::memcpy(to, &value, kVectorBytes);
}

template <class T>
AOQ_INLINE T sum_lanes(const typename Vector<T>::Type& value) {
  T lanes[Vector<T>::kLanes];
  std::memcpy(lanes, &value, kVectorBytes);
  for (int64_t width = Vector<T>::kLanes / 2; width > 0; width /= 2) {
    for (int64_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

}  // namespace aoq::cpu
