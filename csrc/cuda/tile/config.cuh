// Shapes of the score tiles: what a block computes, how its warps share it, and how its shared memory is laid out.
#pragma once

#include <cstdint>

#include "cuda/device/primitives.cuh"
#include "cuda/tile/choice.h"

namespace aoq::device {

// A block computes kRows × kColumns scores with kWarpRows × kWarpColumns warps. Rows of the operands come in slices of
// kSliceBytes, of which kStages are in flight.
template <int kTileRows, int kTileColumns, int kTileWarpRows, int kTileWarpColumns, int kTileSliceBytes,
          int kTileStages>
struct TileConfig {
  static constexpr int kRows = kTileRows, kColumns = kTileColumns;
  static constexpr int kWarpRows = kTileWarpRows, kWarpColumns = kTileWarpColumns;
  static constexpr int kRowsPerWarp = kRows / kWarpRows, kColumnsPerWarp = kColumns / kWarpColumns;
  static constexpr int kThreads = kWarpSize * kWarpRows * kWarpColumns;
  static constexpr int kSliceBytes = kTileSliceBytes;
  static constexpr int kSlicePieces = kSliceBytes / 16;
  static constexpr int kStages = kTileStages;
  static constexpr int kStageBytes = (kRows + kColumns) * kSliceBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

// Tensor cores: a warp computes pieces of 16 rows by 8 columns, the columns in pairs of pieces.
using MmaLarge = TileConfig<128, 128, 2, 2, 64, 4>;
using MmaMiddle = TileConfig<64, 64, 2, 2, 128, 3>;
using MmaSmall = TileConfig<32, 32, 2, 2, 128, 6>;
// Ordinary cores: a warp's lanes are 4 × 8, each with (rows / 4) × (columns / 8) scores.
using FmaLarge = TileConfig<128, 128, 4, 2, 64, 4>;
using FmaMiddle = TileConfig<64, 64, 4, 2, 128, 3>;
using FmaSmall = TileConfig<32, 32, 2, 2, 128, 6>;

// kThreads threads compute the diagonal of a tile alone: the scores of 32 pairs.
inline constexpr int kDiagonalPairs = 32;
template <int kThreads>
using DiagonalConfig = TileConfig<kDiagonalPairs, kDiagonalPairs, 1, kThreads / kWarpSize, 128, 6>;

// A phase of ldmatrix, or of a 128-bit load, reads the same piece of eight consecutive rows. Shared memory holds piece
// p of a row at place p ^ swizzle(row), so that the eight lie in eight groups of banks.
template <class Config>
constexpr int swizzle(int row) {
  return Config::kSlicePieces == 4 ? (row >> 1) & 3 : row & 7;
}

template <class Config>
constexpr bool is_free_of_bank_conflicts() {
  for (int row = 0; row < 16; row += 8) {
    for (int piece = 0; piece < Config::kSlicePieces; ++piece) {
      unsigned groups = 0;
      for (int r = row; r < row + 8; ++r) {
        groups |= 1u << ((r * Config::kSlicePieces + (piece ^ swizzle<Config>(r))) & 7);
      }
      if (groups != 0xff) return false;
    }
  }
  return true;
}

// The loader gives every thread whole pieces, at rows that share one swizzle; two blocks fit a processor of sm_80.
template <class Config>
constexpr bool is_valid_tile() {
  constexpr int kSharedPerProcessor = 164 * 1024, kReservedPerBlock = 1024, kBlocks = 2;
  constexpr int kRowStep = Config::kThreads / Config::kSlicePieces;
  return (Config::kSlicePieces == 4 || Config::kSlicePieces == 8) && is_free_of_bank_conflicts<Config>() &&
         kRowStep % 8 == 0 && Config::kRows % kRowStep == 0 && Config::kColumns % kRowStep == 0 &&
         Config::kStages >= 3 && kBlocks * (Config::kSharedBytes + kReservedPerBlock) <= kSharedPerProcessor;
}

static_assert(is_valid_tile<MmaLarge>() && is_valid_tile<MmaMiddle>() && is_valid_tile<MmaSmall>());
static_assert(is_valid_tile<FmaLarge>() && is_valid_tile<FmaMiddle>() && is_valid_tile<FmaSmall>());
static_assert(is_valid_tile<DiagonalConfig<128>>() && is_valid_tile<DiagonalConfig<256>>());

}  // namespace aoq::device
