// The part of mining that reads every score: which of a row reach the anchor's threshold and are not its own, and
// which reach the thresholds of their columns.
#pragma once

#include <cstdint>

#include "math/top_k_key.h"

namespace aoq::cpu {

struct ScoreRow {
  const float* scores;           // (count,)
  const int64_t* candidate_ids;  // (count,), or null: no candidate is the anchor's own
  int64_t count;
  int64_t anchor_id;
  uint32_t first_index;    // candidate of scores[0]
  float threshold, upper;  // scores between them pass, both included
};

// Keys may be written this far beyond the last one kept.
inline constexpr int64_t kFilterSlack = 16;

// Appends the keys that pass to `out`, which has room for count + kFilterSlack; returns how many.
int64_t filter_row(const ScoreRow& row, TopKKey* out);

// The same row as each of its columns sees it.
struct ColumnView {
  const float* scores;  // (count,)
  const float* floors;  // (count,): of the columns' lists
  const float* uppers;  // (count,)
  int64_t count;
  float error;  // of any of these scores
};

// Appends the scores with score + error ≥ floor and score ≤ upper to `hit_scores`, their columns, counted from
// `first_column`, to `hit_columns`; both have room for count + kFilterSlack. Returns how many.
int64_t filter_columns(const ColumnView& view, uint32_t first_column, uint32_t* hit_columns, float* hit_scores);

}  // namespace aoq::cpu
