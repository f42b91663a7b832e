// A tile seen row by row or column by column: a `line` is a row or a column, a `place` is where along it. Of the lanes
// and warps that share a line, the first leads.
#pragma once

#include "cuda/device/primitives.cuh"

namespace aoq::device {

template <class Scores>
struct ByRow {
  using Config = typename Scores::Config;
  static constexpr bool kRowWise = true;
  static constexpr int kTileLines = Config::kRows, kTilePlaces = Config::kColumns, kWarps = Config::kWarpColumns;
  static constexpr int kLines = Scores::kRows, kPlaces = Scores::kColumns;      // of a thread
  static constexpr int kFirstLane = 1, kLastLane = Scores::kLanesAlongRow / 2;  // bits in which lanes of a line differ

  AOQ_DEVICE static int line(int i) { return Scores::row(i); }
  AOQ_DEVICE static int place(int j) { return Scores::column(j); }
  AOQ_DEVICE static auto at(const Scores& scores, int i, int j) { return scores.at(i, j); }
  AOQ_DEVICE static bool leads() { return lane_index() % Scores::kLanesAlongRow == 0; }
  AOQ_DEVICE static int warp() { return warp_index() % Config::kWarpColumns; }
};

template <class Scores>
struct ByColumn {
  using Config = typename Scores::Config;
  static constexpr bool kRowWise = false;
  static constexpr int kTileLines = Config::kColumns, kTilePlaces = Config::kRows, kWarps = Config::kWarpRows;
  static constexpr int kLines = Scores::kColumns, kPlaces = Scores::kRows;
  static constexpr int kFirstLane = Scores::kLanesAlongRow, kLastLane = kWarpSize / 2;

  AOQ_DEVICE static int line(int j) { return Scores::column(j); }
  AOQ_DEVICE static int place(int i) { return Scores::row(i); }
  AOQ_DEVICE static auto at(const Scores& scores, int j, int i) { return scores.at(i, j); }
  AOQ_DEVICE static bool leads() { return lane_index() < Scores::kLanesAlongRow; }
  AOQ_DEVICE static int warp() { return warp_index() / Config::kWarpColumns; }
};

}  // namespace aoq::device
