// The part of mining that reads every score: which of a row reach the anchor's threshold and are not its own.
#pragma once

#include <cstdint>

#include "math/top_k_key.h"

namespace aoq::cpu {

struct ScoreRow {
  const float* scores;           // (count,)
  const int64_t* candidate_ids;  // (count,), or null: no candidate is the anchor's own
  int64_t count;
  int64_t anchor_id;
  uint32_t first_index;  // candidate of scores[0]
  float threshold;
};

// Keys may be written this far beyond the last one kept.
inline constexpr int64_t kFilterSlack = 16;

// Appends the keys that pass to `out`, which has room for count + kFilterSlack; returns how many.
int64_t filter_row(const ScoreRow& row, TopKKey* out);

}  // namespace aoq::cpu
