// In which order the blocks of a grid take the tiles of S.
#pragma once

#include <cstdint>

#include "cuda/device/primitives.cuh"

namespace aoq::device {

struct TilePosition {
  int64_t row, column;  // in tiles
};

// Down a group of tile rows, then on to the next column: blocks that run together share few operand rows, so that these
// stay in the second-level cache.
AOQ_DEVICE TilePosition grouped_tile(int64_t index, int64_t tile_rows, int64_t tile_columns) {
  constexpr int64_t kGroup = 16;
  const int64_t first = index / (kGroup * tile_columns) * kGroup;
  const int64_t height = tile_rows - first < kGroup ? tile_rows - first : kGroup;
  const int64_t within = index % (kGroup * tile_columns);
  return {first + within % height, within / height};
}

}  // namespace aoq::device
