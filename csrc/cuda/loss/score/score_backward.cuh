// Backward of a given S: ∂loss/∂S, every element computed and written once.
#pragma once

#include "cuda/device/element.cuh"
#include "cuda/loss/backward/all_slopes.cuh"
#include "cuda/loss/score/score_params.h"

namespace aoq::device {

// kWide: rows of S begin 16-byte aligned and are made of whole pieces.
template <class E, bool kAll, bool kWide>
struct ScoreBackwardKernel {
  using Element = E;
  using T = Compute<Element>;
  using Params = ScoreBackwardParams<Element>;
  static constexpr int kThreads = 128;
  static constexpr int kSharedBytes = 0;
  static constexpr int kSize = kPieceSize<Element>;
  static constexpr int kRows = 16, kColumns = kThreads * kSize;  // of a block

  static int64_t tiles(const Params& p) {
    return p.grad ? tiles_along(p.rows, kRows) * tiles_along(p.slopes.anchors, kColumns) : 0;
  }
  static int64_t blocks(const Params& p) {
    bool offline = false;
    for (const Element* grad : p.offline_grad) offline |= grad != nullptr;
    return tiles(p) + (offline ? tiles_along(p.rows, kThreads) : 0);
  }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t across = tiles_along(p.slopes.anchors, kColumns);
    const int64_t tiles = p.grad ? tiles_along(p.rows, kRows) * across : 0, block = block_index();
    if (block < tiles) {
      write_tile(p, block / across * kRows, block % across * kColumns + thread_index() * kSize);
    } else {
      write_offline(p, (block - tiles) * kThreads + thread_index());
    }
  }

 private:
  AOQ_DEVICE static void write_offline(const Params& p, int64_t row) {
    constexpr SavedRow kSlope[4] = {kByHardText, kByHardImage, kByHardPair, kByPartner};
    if (row >= p.rows) return;
#pragma unroll
    for (int which = 0; which < 4; ++which) {
      if (!p.offline_grad[which]) continue;
      p.offline_grad[which][row] = narrow<Element>(loss_slope(p.slopes, kSlope[which], p.first + row));
    }
  }

  // This thread's columns, from `column` on, of some rows.
  AOQ_DEVICE static void write_tile(const Params& p, int64_t first_row, int64_t column) {
    const int64_t columns = p.slopes.anchors;
    if (column >= columns) return;
    int chosen[kSize];  // by the text of a column: a row of this tile
    T by_image[kSize];
    HingeSide<T> sides[kSize];
#pragma unroll
    for (int v = 0; v < kSize; ++v) {
      const int64_t anchor = column + v < columns ? column + v : columns - 1;
      const int64_t row = p.image_index[anchor] - p.first - first_row;
      chosen[v] = p.image_index[anchor] >= 0 && row >= 0 && row < kRows ? int(row) : -1;
      by_image[v] = chosen[v] >= 0 ? loss_slope(p.slopes, kByImage, anchor) : T(0);
      if constexpr (kAll) sides[v] = hinge_side(p.slopes, kImageWeight, p.group, anchor);
    }
    for (int r = 0; r < kRows && first_row + r < p.rows; ++r) {
      const int64_t row = first_row + r, anchor = p.first + row, text = p.text_index[anchor];
      const T self = loss_slope(p.slopes, kBySelf, anchor), by_text = loss_slope(p.slopes, kByText, anchor);
      Piece<Element> piece;
      T sum[kSize] = {};
      if constexpr (kAll) {
        const auto side = hinge_side(p.slopes, kTextWeight, p.group, anchor);
        piece = load(p.scores + row * columns, column, columns);
#pragma unroll
        for (int v = 0; v < kSize; ++v) sum[v] = all_slope(widen(piece.element[v]), p.margin, side, sides[v]);
      }
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        if (column + v == anchor) sum[v] += self;
        if (column + v == text) sum[v] += by_text;
        if (chosen[v] == r) sum[v] += by_image[v];
        piece.element[v] = narrow<Element>(sum[v]);
      }
      store(p.grad + row * columns, column, columns, piece);
    }
  }

  AOQ_DEVICE static Piece<Element> load(const Element* row, int64_t column, int64_t columns) {
    if constexpr (kWide) {
      return load_piece(row + column);
    } else {
      Piece<Element> piece{};
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        if (column + v < columns) piece.element[v] = row[column + v];
      }
      return piece;
    }
  }

  AOQ_DEVICE static void store(Element* row, int64_t column, int64_t columns, const Piece<Element>& piece) {
    if constexpr (kWide) {
      store_piece(row + column, piece);
    } else {
#pragma unroll
      for (int v = 0; v < kSize; ++v) {
        if (column + v < columns) row[column + v] = piece.element[v];
      }
    }
  }
};

}  // namespace aoq::device
