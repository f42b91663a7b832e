// Forward of a given S: one pass for the hardest and semihard negatives of both directions.
#pragma once

#include "cuda/loss/finish.cuh"
#include "cuda/loss/score/given_scores.cuh"
#include "cuda/loss/score/score_params.h"
#include "cuda/tile/hardest.cuh"
#include "cuda/tile/order.cuh"

namespace aoq::device {

template <class Element>
AOQ_DEVICE void load_anchor(const ScoreAnchors<Element>& p, int64_t i) {
  if (i >= p.count) return;
  p.scores[i] = widen(p.diagonal[i * (p.stride + 1)]);
#pragma unroll
  for (int which = 0; which < 4; ++which) {
    if (p.offline[which]) p.scores[(which + 1) * p.count + i] = widen(p.offline[which][i]);
  }
}

template <class Element>
struct ScoreAnchorsKernel {
  using Params = ScoreAnchors<Element>;
  static constexpr int kThreads = 128;
  static constexpr int kSharedBytes = 0;

  static int64_t blocks(const Params& p) { return tiles_along(p.count, kThreads); }

  AOQ_DEVICE static void run(const Params& p) { load_anchor(p, int64_t(block_index()) * kThreads + thread_index()); }
};

// Blocks of tiles, then blocks of anchors; the last of all to come to its end finishes.
template <class Element>
struct ScoreHardestKernel {
  using Config = GivenConfig;
  using Params = ScoreHardestParams<Element>;
  static constexpr int kThreads = Config::kThreads;
  static constexpr int kSharedBytes = Config::kSharedBytes;
  static_assert(kSharedBytes >= int(sizeof(FinishShared)));

  static int64_t tiles(const Params& p) {
    return tiles_along(p.rules.rows, Config::kRows) * tiles_along(p.rules.columns, Config::kColumns);
  }
  static int64_t blocks(const Params& p) { return tiles(p) + tiles_along(p.anchors.count, kThreads); }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t tile_rows = tiles_along(p.rules.rows, Config::kRows);
    const int64_t tile_columns = tiles_along(p.rules.columns, Config::kColumns);
    const int64_t block = block_index();
    if (block < tile_rows * tile_columns) {
      const int64_t row = block / tile_columns * Config::kRows, column = block % tile_columns * Config::kColumns;
      GivenScores<Element> scores;
      compute_tile(p.all, row, column, scores);
      mask_tile(scores, p.rules, row, column);
      merge_hardest(scores, p.rules, row, column, p.row_key, p.column_key);
    } else {
      load_anchor(p.anchors, (block - tile_rows * tile_columns) * kThreads + thread_index());
    }
    if (!p.finishes) return;
    FinishShared& shared = *reinterpret_cast<FinishShared*>(shared_memory());
    if (is_last_block(p.finish.ticket, shared)) finish_in_block<kThreads>(p.finish, shared);
  }
};

}  // namespace aoq::device
