// The arithmetic and the register layouts of the tensor core instructions, as PTX documents them.
#pragma once

#include <cstdint>

#include "simt/runtime.h"

namespace aoq::simt {

enum class Operand { kBFloat16, kHalf, kTf32 };

// c += a · b; 16×8×16 for the 16-bit operands, 16×8×8 for tf32. Products are exact, sums rounded to float once.
void mma(Operand operand, float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Site& site);

void load_matrix_x4(uint32_t (&words)[4], const void* shared_row, const Site& site);

uint32_t round_to_tf32(float value);  // to nearest, ties away from zero
float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);  // to nearest, ties to even

}  // namespace aoq::simt
