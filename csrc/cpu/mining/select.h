// Shrinking a buffer of keys to its greatest ones without sorting it.
#pragma once

#include <cstdint>

#include "math/top_k_key.h"

namespace aoq::cpu {

// A score that at least k of the keys reach, 1 ≤ k ≤ count, and that no more than `most` reach unless scores are too
// close to part: the k-th greatest or a bound on it from below. Bisection: counting is cheaper than moving keys.
float bound_kth_score(const TopKKey* keys, int64_t count, int64_t k, int64_t most);

// Moves the keys of at least `floor` to the front, in their order, and returns how many there are.
int64_t keep_at_least(TopKKey* keys, int64_t count, TopKKey floor);

}  // namespace aoq::cpu
