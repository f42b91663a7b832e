// Operations on embedding rows of D elements.
#pragma once

#include <cstdint>

#include "cpu/product/storage.h"

namespace aoq::cpu {

float dot(const float* x, const float* y, int64_t width);
double dot(const double* x, const double* y, int64_t width);
float dot(const Bfloat16* x, const Bfloat16* y, int64_t width);

// ‖max(0, y − x)‖₂
float order_distance(const float* x, const float* y, int64_t width);
double order_distance(const double* x, const double* y, int64_t width);
float order_distance(const Bfloat16* x, const Bfloat16* y, int64_t width);

// out = Σ_t scale[t] · rows[t], summed in the order given; written once, and 0 for no terms. A row may be `out` itself.
void weighted_sum(float* out, const float* scale, const float* const* rows, int64_t terms, int64_t width);
void weighted_sum(double* out, const double* scale, const double* const* rows, int64_t terms, int64_t width);
void weighted_sum(Bfloat16* out, const float* scale, const Bfloat16* const* rows, int64_t terms, int64_t width);

// sum += scale · max(0, y − x)
void add_order(float* sum, float scale, const float* x, const float* y, int64_t width);
void add_order(double* sum, double scale, const double* x, const double* y, int64_t width);

}  // namespace aoq::cpu
