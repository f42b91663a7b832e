// How S is cut into tiles and into chunks of a walk: pure functions of its size.
#pragma once

#include <cstdint>

namespace aoq::device {

enum class TileSize { kSmall = 32, kMiddle = 64, kLarge = 128 };

constexpr int64_t tiles_along(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }

constexpr int64_t tile_count(int64_t rows, int64_t columns, TileSize size) {
  return tiles_along(rows, int64_t(size)) * tiles_along(columns, int64_t(size));
}

// The largest tile of which there are enough to occupy a large GPU: larger tiles read the operands less often.
constexpr TileSize choose_tile_size(int64_t rows, int64_t columns) {
  constexpr int64_t kEnough = 128;
  if (tile_count(rows, columns, TileSize::kLarge) >= kEnough) return TileSize::kLarge;
  return tile_count(rows, columns, TileSize::kSmall) > 2 * kEnough ? TileSize::kMiddle : TileSize::kSmall;
}

static_assert(choose_tile_size(1, 1) == TileSize::kSmall);
static_assert(choose_tile_size(512, 512) == TileSize::kSmall);
static_assert(choose_tile_size(1024, 1024) == TileSize::kMiddle);
static_assert(choose_tile_size(2048, 2048) == TileSize::kLarge);
static_assert(choose_tile_size(65536, 65536) == TileSize::kLarge);

// A walk along the lines of S is cut into chunks until there are enough blocks; never more than keeps their results
// small.
inline constexpr int kWalkTile = 64;

constexpr int64_t walk_chunks(int64_t lines, int64_t places) {
  constexpr int64_t kEnough = 192, kMost = 16;
  const int64_t wanted = kEnough / (tiles_along(lines, kWalkTile) + 1) + 1;
  const int64_t tiles = tiles_along(places, kWalkTile);
  const int64_t chunks = wanted < kMost ? wanted : kMost;
  return chunks < tiles ? chunks : tiles ? tiles : 1;
}

static_assert(walk_chunks(0, 0) == 1 && walk_chunks(64, 65) == 2);
static_assert(walk_chunks(1024, 1024) == 12 && walk_chunks(65536, 65536) == 1);

}  // namespace aoq::device
