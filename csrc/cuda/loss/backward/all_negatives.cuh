// Online::kAll: panels of ∂loss/∂S from the embeddings, with the very scores of the forward pass; and what order
// similarity multiplies them by instead of a matrix product.
#pragma once

#include "cuda/loss/backward/all_slopes.cuh"
#include "cuda/loss/backward/row_slice.cuh"
#include "cuda/tile/order.cuh"
#include "cuda/tile/scores.cuh"

namespace aoq::device {

template <class Scores, bool kOrder>
struct AllSlopesKernel {
  using Config = typename Scores::Config;
  using Element = typename Scores::Element;
  using T = Compute<Element>;
  using Params = AllSlopesParams<Element>;
  static constexpr int kThreads = Config::kThreads;
  static constexpr int kSharedBytes = Config::kSharedBytes;

  static int64_t blocks(const Params& p) {
    return tiles_along(p.panel.left.count, Config::kRows) * tiles_along(p.panel.right.count, Config::kColumns);
  }

  AOQ_DEVICE static void run(const Params& p) {
    const auto& [left, right, width] = p.panel;
    const TilePosition tile =
        grouped_tile(block_index(), tiles_along(left.count, Config::kRows), tiles_along(right.count, Config::kColumns));
    const int64_t first_row = tile.row * Config::kRows, first_column = tile.column * Config::kColumns;
    Scores scores;
    compute_tile(p.panel, first_row, first_column, scores);
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      const int64_t column = first_column + Scores::column(j);
      if (column >= right.count) continue;
      const auto by_column = hinge_side(p.slopes, kImageWeight, p.group, p.column_anchor + column);
#pragma unroll
      for (int i = 0; i < Scores::kRows; ++i) {
        const int64_t row = first_row + Scores::row(i);
        if (row >= left.count) continue;
        const auto by_row = hinge_side(p.slopes, kTextWeight, p.group, p.row_anchor + row);
        const T score = scores.at(i, j), slope = all_slope(score, p.margin, by_row, by_column);
        p.out[row * right.count + column] = factor(score, slope) * scale_of(left, row) * scale_of(right, column);
      }
    }
  }

 private:
  // With order similarity the score is −‖max(0, y − x)‖.
  AOQ_DEVICE static T factor(T score, T slope) {
    if constexpr (!kOrder) return slope;
    return slope == T(0) || score == T(0) ? T(0) : slope / -score;
  }
};

// A warp sums one slice of kTargets rows.
template <class E>
struct OrderDenseKernel {
  using Element = E;
  using T = Compute<Element>;
  using Params = OrderDenseParams<Element>;
  using Slice = RowSlice<Element>;
  static constexpr int kThreads = 128;
  static constexpr int kSharedBytes = 0;
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kTargets = 4;

  static int64_t items(const Params& p) {
    return tiles_along(p.targets, kTargets) * tiles_along(p.width, Slice::kColumns);
  }
  static int64_t blocks(const Params& p) { return tiles_along(items(p), kWarps); }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t slices = Slice::count(p.width), item = int64_t(block_index()) * kWarps + warp_index();
    const int64_t first = item / slices * kTargets, column = Slice::column(item % slices);
    if (first >= p.targets) return;
    typename Slice::Sum sum[kTargets];
    Piece<Element> target[kTargets];
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
      target[t] = Slice::load(p.target + (first + t) * p.target_stride, column, p.width, first + t < p.targets);
    }
    for (int64_t s = 0; s < p.sources; ++s) {
      const Piece<Element> source = Slice::load(p.source + s * p.source_stride, column, p.width);
#pragma unroll
      for (int t = 0; t < kTargets; ++t) {
        if (first + t >= p.targets) continue;
        const T slope = p.slopes[(first + t) * p.by_target + s * p.by_source];
        if (p.is_text) {
          add_order(sum[t], -slope, source, target[t]);
        } else {
          add_order(sum[t], slope, target[t], source);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTargets; ++t) {
      for (int v = 0; first + t < p.targets && v < Slice::kSize; ++v) {
        if (column + v < p.width) p.out[(first + t) * p.width + column + v] = sum[t].value[v];
      }
    }
  }
};

}  // namespace aoq::device
