// The score of a pair: the dot product summed in float64 in one fixed order, rounded to float32.
#pragma once

#include <cstdint>

#include "math/top_k_key.h"

namespace aoq::cpu {

// Replaces the score in each of `count` keys, whose indices are rows of `others`, by the exact one. The order of the
// sum is that of aoq_ext.mining.plain.ordered_dot.
void rescore(TopKKey* keys, int64_t count,
             const float* row,     // (D,)
             const float* others,  // (rows, D)
             int64_t width);

double euclidean_norm(const float* row, int64_t width);

}  // namespace aoq::cpu
