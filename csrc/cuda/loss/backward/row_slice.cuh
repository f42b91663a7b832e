// A warp's slice of a row: one 16-byte piece a lane.
#pragma once

#include "cuda/device/element.cuh"
#include "cuda/device/warp.cuh"

namespace aoq::device {

// The sums of one lane, for the columns of its piece.
template <class Element>
struct PieceSum {
  Compute<Element> value[kPieceSize<Element>] = {};
};

// Rows begin 16-byte aligned and are made of whole pieces.
template <class E>
struct RowSlice {
  using Element = E;
  using Sum = PieceSum<Element>;
  static constexpr int kSize = kPieceSize<Element>;
  static constexpr int64_t kColumns = kWarpSize * kSize;

  AOQ_DEVICE static int64_t count(int64_t width) { return (width + kColumns - 1) / kColumns; }
  AOQ_DEVICE static int64_t column(int64_t slice) { return slice * kColumns + lane_index() * kSize; }

  // Zeros where the row ends, or is not wanted.
  AOQ_DEVICE static Piece<Element> load(const Element* row, int64_t column, int64_t width, bool wanted = true) {
    return wanted && column < width ? load_piece(row + column) : Piece<Element>{};
  }

  AOQ_DEVICE static void store(Element* row, int64_t column, int64_t width, const Sum& sum) {
    if (column >= width) return;
    Piece<Element> piece;
#pragma unroll
    for (int v = 0; v < kSize; ++v) piece.element[v] = narrow<Element>(sum.value[v]);
    store_piece(row + column, piece);
  }
};

// max(0, y − x), and not through a product: −∞ · 0 is NaN. NaN passes.
template <class T>
AOQ_DEVICE T positive_part(T difference) {
  return difference <= T(0) ? T(0) : difference;
}

// sum += scale · row. A scale of 0 adds nothing, whatever the row holds.
template <class Element>
AOQ_DEVICE void add_scaled(PieceSum<Element>& sum, Compute<Element> scale, const Piece<Element>& row) {
  if (scale == Compute<Element>(0)) return;
#pragma unroll
  for (int v = 0; v < kPieceSize<Element>; ++v) sum.value[v] += scale * widen(row.element[v]);
}

// sum += scale · max(0, y − x)
template <class Element>
AOQ_DEVICE void add_order(PieceSum<Element>& sum, Compute<Element> scale, const Piece<Element>& x,
                          const Piece<Element>& y) {
  if (scale == Compute<Element>(0)) return;
#pragma unroll
  for (int v = 0; v < kPieceSize<Element>; ++v) {
    sum.value[v] += scale * positive_part(widen(y.element[v]) - widen(x.element[v]));
  }
}

}  // namespace aoq::device
