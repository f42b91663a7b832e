// From the storage type of the operands to the type they are computed in and back, and 16-byte pieces of a row.
#pragma once

#include <bit>

#include "cuda/device/primitives.cuh"
#include "cuda/host/element_types.h"

namespace aoq::device {

AOQ_DEVICE float widen(BFloat16 value) { return std::bit_cast<float>(uint32_t(value.bits) << 16); }
AOQ_DEVICE float widen(Half value) { return half_to_float(value.bits); }
AOQ_DEVICE float widen(float value) { return value; }
AOQ_DEVICE double widen(double value) { return value; }

// The nearest value of the storage type, ties to even; NaN stays NaN.
template <class Element>
AOQ_DEVICE Element narrow(Compute<Element> value) {
  if constexpr (std::is_same_v<Element, BFloat16>) {
    if (value != value) return {0x7fff};
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
  } else if constexpr (std::is_same_v<Element, Half>) {
    return {float_to_half(value)};
  } else {
    return value;
  }
}

inline constexpr int kPieceBytes = 16;

template <class Element>
inline constexpr int kPieceSize = kPieceBytes / int(sizeof(Element));  // elements

// What one 128-bit load or store moves.
template <class Element>
struct alignas(kPieceBytes) Piece {
  Element element[kPieceSize<Element>];
};

template <class Element>
AOQ_DEVICE Piece<Element> load_piece(const Element* source) {  // 16-byte aligned
  return *reinterpret_cast<const Piece<Element>*>(source);
}

template <class Element>
AOQ_DEVICE void store_piece(Element* target, const Piece<Element>& piece) {  // 16-byte aligned
  *reinterpret_cast<Piece<Element>*>(target) = piece;
}

}  // namespace aoq::device
