// Scores of a tile by tensor cores, held in the registers of its warps. float32 operands are rounded to TF32.
#pragma once

#include "cuda/device/element.cuh"
#include "cuda/tile/config.cuh"

namespace aoq::device {

// One matrix instruction over 32 bytes of 16 rows and of 8 columns.
template <class Element>
AOQ_DEVICE void multiply_fragments(float (&scores)[4], const uint32_t (&rows)[4], const uint32_t (&columns)[2]) {
  if constexpr (std::is_same_v<Element, float>) {
    mma_16x8x8_tf32(scores, rows, columns);
  } else {
    mma_16x8x16<Element>(scores, rows, columns);
  }
}

// Four 8 × 16-byte matrices; each lane gives the row of one.
template <class Config, class Element>
AOQ_DEVICE void load_fragments(uint32_t (&fragments)[4], const char* rows, int row, int piece) {
  load_matrix_x4(fragments, rows + row * Config::kSliceBytes + (piece ^ swizzle<Config>(row)) * kPieceBytes);
  if constexpr (std::is_same_v<Element, float>) {
#pragma unroll
    for (uint32_t& word : fragments) word = to_tf32(std::bit_cast<float>(word));
  }
}

template <class TileShape, class OperandElement>
class TensorScores {
 public:
  using Config = TileShape;
  using Element = OperandElement;
  static constexpr int kRows = Config::kRowsPerWarp / 8, kColumns = Config::kColumnsPerWarp / 4;  // of a thread
  static constexpr int kLanesAlongRow = 4;

  // Where in the tile entry (i, j) of this thread lies.
  AOQ_DEVICE static int row(int i) {
    return warp_index() / Config::kWarpColumns * Config::kRowsPerWarp + i * 8 + lane_index() / 4;
  }
  AOQ_DEVICE static int column(int j) {
    return warp_index() % Config::kWarpColumns * Config::kColumnsPerWarp + j / 2 * 8 + lane_index() % 4 * 2 + j % 2;
  }

  AOQ_DEVICE float& at(int i, int j) { return scores_[i / 2][j / 2][i % 2 * 2 + j % 2]; }
  AOQ_DEVICE float at(int i, int j) const { return scores_[i / 2][j / 2][i % 2 * 2 + j % 2]; }

  AOQ_DEVICE void accumulate(const char* stage) {
    const int lane = lane_index();
    const char* left = stage + warp_index() / Config::kWarpColumns * Config::kRowsPerWarp * Config::kSliceBytes;
    const char* right =
        stage + (Config::kRows + warp_index() % Config::kWarpColumns * Config::kColumnsPerWarp) * Config::kSliceBytes;
#pragma unroll
    for (int piece = 0; piece < Config::kSlicePieces; piece += 2) {
      uint32_t rows[kRowBlocks][4], columns[kColumnBlocks][2];
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m) {
        load_fragments<Config, Element>(rows[m], left, m * 16 + lane % 16, piece + lane / 16);
      }
#pragma unroll
      for (int n = 0; n < kColumnBlocks; n += 2) {
        uint32_t pair[4];
        load_fragments<Config, Element>(pair, right, n * 8 + lane / 16 * 8 + lane % 8, piece + lane / 8 % 2);
        columns[n][0] = pair[0], columns[n][1] = pair[1];
        columns[n + 1][0] = pair[2], columns[n + 1][1] = pair[3];
      }
#pragma unroll
      for (int m = 0; m < kRowBlocks; ++m) {
#pragma unroll
        for (int n = 0; n < kColumnBlocks; ++n) multiply_fragments<Element>(scores_[m][n], rows[m], columns[n]);
      }
    }
  }

  AOQ_DEVICE static float finish(float sum) { return sum; }

 private:
  static constexpr int kRowBlocks = Config::kRowsPerWarp / 16, kColumnBlocks = Config::kColumnsPerWarp / 8;
  static_assert(kColumnBlocks % 2 == 0);

  float scores_[kRowBlocks][kColumnBlocks][4] = {};
};

// The scores of kDiagonalPairs pairs: a warp has eight, of which the instruction computes all products.
template <int kThreads, class OperandElement>
class TensorDiagonal {
 public:
  using Config = DiagonalConfig<kThreads>;
  using Element = OperandElement;

  AOQ_DEVICE void accumulate(const char* stage) {
    const int lane = lane_index(), pair = warp_index() * 8 + lane % 8;
    if (warp_index() * 8 >= kDiagonalPairs) return;
#pragma unroll
    for (int piece = 0; piece < Config::kSlicePieces; piece += 2) {
      uint32_t both[4];  // two matrices of the left rows, then two of the right rows
      load_fragments<Config, Element>(both, stage, pair + lane / 16 * Config::kRows, piece + lane / 8 % 2);
      multiply_fragments<Element>(scores_, {both[0], 0, both[1], 0}, {both[2], both[3]});
    }
  }

  // Calls store(pair, score) for those that this thread holds.
  template <class Store>
  AOQ_DEVICE void for_each(Store store) const {
    const int lane = lane_index(), row = lane / 4;
    if (warp_index() * 8 < kDiagonalPairs && lane % 4 == row / 2) {
      store(warp_index() * 8 + row, row % 2 ? scores_[1] : scores_[0]);
    }
  }

 private:
  float scores_[4] = {};
};

}  // namespace aoq::device
