// One side of a tile of scores: its rows, what decides which pairs may be negatives, and the lists that it wants.
#pragma once

#include <cstdint>
#include <vector>

#include "math/identity.h"
#include "math/top_k_bound.h"
#include "math/top_k_key.h"

namespace aoq::cpu {

// How a product reads its operands: rounded (to bfloat16, or as torch was allowed to), or as they are.
enum class Precision { kCoarse, kFine };

struct MiningSide {
  const float* rows;  // (count, width)
  int64_t count, width;
  int64_t first;         // number of row 0 among all rows
  Identities identity;   // ids of both sides or of neither, likewise labels
  const float* caps;     // (count,): a negative of row i scores at most caps[i]; or null
  int64_t k;             // keys of a list; 0 where none are wanted
  const TopKKey* known;  // (count, k): found before this tile, greatest first
  TopKKey* best;         // (count, k): the lists after it

  std::vector<RowBound> bound;  // (count,): as the coarse product reads them
  RowBound longest{};           // no row exceeds it
  int64_t additions[2] = {};    // of the sums of either product, by precision; see math/top_k_bound.h

  const float* row(int64_t i) const { return rows + i * width; }
};

// How far the product of row i with any row of the other side can be from its score.
inline double row_error(const MiningSide& own, int64_t i, const MiningSide& other, Precision precision) {
  const bool coarse = precision == Precision::kCoarse;
  const RowBound x{own.bound[i].norm, coarse ? own.bound[i].distance : 0};
  return product_error(own.additions[static_cast<int>(precision)], kFloatUnit, x,
                       {other.longest.norm, coarse ? other.longest.distance : 0});
}

}  // namespace aoq::cpu
