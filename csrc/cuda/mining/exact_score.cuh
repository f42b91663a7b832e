// The score of a pair: the dot product summed in float64 in one fixed order, rounded to float32. The order is that of
// aoq_ext.mining.plain.ordered_dot: sixteen partial sums, folded in halves.
#pragma once

#include "cuda/device/element.cuh"

namespace aoq::device {

// Neighbouring lanes share a pair, each with the partial sums of a 16-byte piece.
template <class Element>
struct ExactScore {
  static constexpr int kSize = kPieceSize<Element>;
  static constexpr int kSums = 16, kLanes = kSums / kSize, kPairs = kWarpSize / kLanes;  // of a warp

  AOQ_DEVICE static int pair() { return lane_index() / kLanes; }
  AOQ_DEVICE static bool leads() { return lane_index() % kLanes == 0; }

  // Called by whole warps; rows are 16-byte aligned, made of whole pieces, and padded with zeros. The row x, which many
  // pairs share, may have been converted already.
  template <class Left>
  AOQ_DEVICE static float of(const Left* x, const Element* y, int64_t width) {
    double sum[kSize] = {};
#pragma unroll 2
    for (int64_t d = lane_index() % kLanes * kSize; d < width; d += kSums) {
      double left[kSize];
      load_doubles(left, x + d);
      const Piece<Element> right = load_piece(y + d);
#pragma unroll
      for (int v = 0; v < kSize; ++v) {  // the product is exact, so that fused or not is the same
        sum[v] = fused_multiply_add(left[v], double(widen(right.element[v])), sum[v]);
      }
    }
#pragma unroll
    for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma unroll
      for (int v = 0; v < kSize; ++v) sum[v] += shuffle_xor(sum[v], half);
    }
#pragma unroll
    for (int half = kSize / 2; half > 0; half /= 2) {
#pragma unroll
      for (int v = 0; v < half; ++v) sum[v] += sum[v + half];
    }
    return float(sum[0]);
  }

 private:
  AOQ_DEVICE static void load_doubles(double (&values)[kSize], const Element* row) {
    const Piece<Element> piece = load_piece(row);
#pragma unroll
    for (int v = 0; v < kSize; ++v) values[v] = double(widen(piece.element[v]));
  }
  AOQ_DEVICE static void load_doubles(double (&values)[kSize], const double* row) {
#pragma unroll
    for (int v = 0; v < kSize; v += kPieceSize<double>) {
      const Piece<double> piece = load_piece(row + v);
      values[v] = piece.element[0], values[v + 1] = piece.element[1];
    }
  }
};

}  // namespace aoq::device
