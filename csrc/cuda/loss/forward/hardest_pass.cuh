// One walk over S for both directions: a block computes a tile, or the scores of some pairs; S exists in registers
// alone.
#pragma once

#include "cuda/loss/finish.cuh"
#include "cuda/tile/hardest.cuh"

namespace aoq::device {

template <class Element>
int64_t pair_blocks(const PairScores<Element>& pairs) {
  int64_t blocks = 0;
  for (int i = 0; i < pairs.parts; ++i) blocks += tiles_along(pairs.part[i].product.left.count, kDiagonalPairs);
  return blocks;
}

// The scores of pairs alone.
template <class Diagonal>
struct PairsKernel {
  using Params = PairScores<typename Diagonal::Element>;
  static constexpr int kThreads = Diagonal::Config::kThreads;
  static constexpr int kSharedBytes = Diagonal::Config::kSharedBytes;

  static int64_t blocks(const Params& p) { return pair_blocks(p); }

  AOQ_DEVICE static void run(const Params& p) { score_pairs<Diagonal>(p, block_index()); }
};

template <class Scores, class Diagonal>
struct HardestKernel {
  using Config = typename Scores::Config;
  using Params = HardestParams<typename Scores::Element>;
  static constexpr int kThreads = Config::kThreads;
  static_assert(Diagonal::Config::kThreads == kThreads);
  static constexpr int kSharedBytes =
      Config::kSharedBytes > Diagonal::Config::kSharedBytes ? Config::kSharedBytes : Diagonal::Config::kSharedBytes;

  static int64_t blocks(const Params& p) {
    return tiles_along(p.rules.rows, Config::kRows) * tiles_along(p.rules.columns, Config::kColumns) +
           pair_blocks(p.pairs);
  }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t tile_rows = tiles_along(p.rules.rows, Config::kRows);
    const int64_t tile_columns = tiles_along(p.rules.columns, Config::kColumns);
    const int64_t block = block_index();
    if (block < tile_rows * tile_columns) {
      const TilePosition tile = grouped_tile(block, tile_rows, tile_columns);
      const int64_t row = tile.row * Config::kRows, column = tile.column * Config::kColumns;
      Scores scores;
      compute_tile(p.all, row, column, scores);
      mask_tile(scores, p.rules, row, column);
      merge_hardest(scores, p.rules, row, column, p.row_key, p.column_key);
    } else {
      score_pairs<Diagonal>(p.pairs, block - tile_rows * tile_columns);
    }
    if constexpr (Config::kRows < int(TileSize::kLarge)) {  // the walk of large batches keeps its registers
      if (!p.finishes) return;
      FinishShared& shared = *reinterpret_cast<FinishShared*>(shared_memory());
      if (is_last_block(p.finish.ticket, shared)) finish_in_block<kThreads>(p.finish, shared);
    }
  }
};

}  // namespace aoq::device
