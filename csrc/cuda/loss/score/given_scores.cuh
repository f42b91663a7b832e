// A tile of a given S, in registers: what a product leaves there, for the same reductions.
#pragma once

#include "cuda/device/element.cuh"
#include "cuda/loss/forward/forward_params.h"

namespace aoq::device {

struct GivenConfig {
  static constexpr int kRows = kWalkTile, kColumns = kWalkTile;
  static constexpr int kWarpRows = 4, kWarpColumns = 1;
  static constexpr int kThreads = kWarpSize * kWarpRows * kWarpColumns;
  static constexpr int kSharedBytes = kColumns * kWarpRows * 32;  // of LineStates::store, and of the finish
};

// A lane holds every 32nd column, so that a warp reads whole stretches of rows.
template <class E>
class GivenScores {
 public:
  using Config = GivenConfig;
  using Element = E;
  using T = Compute<Element>;
  static constexpr int kRows = Config::kRows / Config::kWarpRows, kColumns = Config::kColumns / kWarpSize;
  static constexpr int kLanesAlongRow = kWarpSize;

  AOQ_DEVICE static int row(int i) { return warp_index() * kRows + i; }
  AOQ_DEVICE static int column(int j) { return j * kWarpSize + lane_index(); }

  AOQ_DEVICE T& at(int i, int j) { return scores_[i][j]; }
  AOQ_DEVICE T at(int i, int j) const { return scores_[i][j]; }

 private:
  T scores_[kRows][kColumns];
};

// Found in place of the tile that is multiplied out. Entries beyond the edges are 0; mask_tile excludes them.
template <class Element>
AOQ_DEVICE void compute_tile(const Product<Element>& given, int64_t row, int64_t column, GivenScores<Element>& scores) {
  using Scores = GivenScores<Element>;
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    const int64_t r = row + Scores::row(i);
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      const int64_t c = column + Scores::column(j);
      const bool exists = r < given.left.count && c < given.right.count;
      scores.at(i, j) = exists ? widen(given.left.data[r * given.left.stride + c]) : Compute<Element>(0);
    }
  }
}

}  // namespace aoq::device
