// Reduces a tile of float32 scores to the maxima of its rows and columns, and merges these into packed keys.
#pragma once

#include "cuda/device/packed_key.cuh"
#include "cuda/device/warp.cuh"
#include "cuda/tile/lines.cuh"
#include "cuda/tile/masks.cuh"

namespace aoq::device {

// One direction of a tile.
struct LineKeys {
  uint64_t* key;          // of the tile's first line
  int64_t lines;          // that exist from the tile's first on
  int64_t first_place;    // the index of the tile's first entry along a line
  const float* positive;  // of the tile's first line
};

// The search for the index and the atomic maximum wait until a maximum reaches the best so far, which becomes rare.
template <template <class> class Direction, bool kBelowPositive, class Scores>
AOQ_DEVICE void merge_lines(const Scores& scores, const LineKeys& to) {
  using Along = Direction<Scores>;
  uint32_t to_reach[Along::kLines];
  float limit[Along::kLines];
#pragma unroll
  for (int i = 0; i < Along::kLines; ++i) {
    const int line = Along::line(i);
    const bool exists = line < to.lines;
    to_reach[i] = exists ? uint32_t(load_relaxed(to.key + line) >> 32) : 0;
    if constexpr (kBelowPositive) limit[i] = exists ? to.positive[line] : 0;
  }
#pragma unroll
  for (int i = 0; i < Along::kLines; ++i) {
    const auto score = [&](int j) {
      const float value = Along::at(scores, i, j);
      if constexpr (kBelowPositive) return value >= limit[i] ? kMasked<float> : value;  // NaN stays
      return value;
    };
    float best = score(0);
#pragma unroll
    for (int j = 1; j < Along::kPlaces; ++j) best = max_or_nan(best, score(j));
    best = combine_lanes<Along::kFirstLane, Along::kLastLane>(best, [](float a, float b) { return max_or_nan(a, b); });
    const bool exists = Along::line(i) < to.lines && best != kMasked<float>;
    if (!ballot(exists && biased_key(best) >= to_reach[i])) continue;
    uint32_t place = ~uint32_t(0);
#pragma unroll
    for (int j = Along::kPlaces - 1; j >= 0; --j) {
      const float value = score(j);
      if (value == best || value != value) place = Along::place(j);
    }
    place =
        combine_lanes<Along::kFirstLane, Along::kLastLane>(place, [](uint32_t a, uint32_t b) { return a < b ? a : b; });
    if (Along::leads() && exists) atomic_max(to.key + Along::line(i), pack_key(best, uint32_t(to.first_place) + place));
  }
}

template <bool kBelowPositive, class Scores>
AOQ_DEVICE void merge_tile(const Scores& scores, const NegativeRules<float>& rules, int64_t row, int64_t column,
                           uint64_t* row_key, uint64_t* column_key) {
  const int64_t anchor = rules.first + row;
  const LineKeys rows{row_key + row, rules.rows - row, column, rules.positive + (kBelowPositive ? anchor : 0)};
  const LineKeys columns{column_key + column, rules.columns - column, anchor,
                         rules.positive + (kBelowPositive ? column : 0)};
  merge_lines<ByRow, kBelowPositive>(scores, rows);
  merge_lines<ByColumn, kBelowPositive>(scores, columns);
}

// Merges a masked tile into row_key (rows,) and column_key (columns,), whose indices are of anchors.
template <class Scores>
AOQ_DEVICE void merge_hardest(const Scores& scores, const NegativeRules<float>& rules, int64_t row, int64_t column,
                              uint64_t* row_key, uint64_t* column_key) {
  if (rules.positive) {
    merge_tile<true>(scores, rules, row, column, row_key, column_key);
  } else {
    merge_tile<false>(scores, rules, row, column, row_key, column_key);
  }
}

}  // namespace aoq::device
