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

// Adds the upper half of the lanes to the lower until one is left.
template <class T, int64_t kBytes = kVectorBytes, class V>
AOQ_INLINE T sum_lanes(const V& value) {
  if constexpr (kBytes == 2 * sizeof(T)) {
    return value[0] + value[1];
  } else {
    typedef T Half __attribute__((vector_size(kBytes / 2)));
    Half low, high;
    std::memcpy(&low, &value, kBytes / 2);
    std::memcpy(&high, reinterpret_cast<const char*>(&value) + kBytes / 2, kBytes / 2);
    return sum_lanes<T, kBytes / 2>(low + high);
  }
}

}  // namespace aoq::cpu
