// Both directions of S from two products: a block owns some lines, rows or columns of S, and walks along a chunk of
// them in order. Sums need no atomics, and scores may be float64. A second kernel folds the chunks in order.
#pragma once

#include "cuda/tile/sums.cuh"

namespace aoq::device {

template <template <class> class Direction, class Scores>
AOQ_DEVICE void walk(const WalkParams<typename Scores::Element>& p, int64_t block, int64_t chunks) {
  using Along = Direction<Scores>;
  using T = Compute<typename Scores::Element>;
  const int64_t lines = Along::kRowWise ? p.rules.rows : p.rules.columns;
  const int64_t tiles = tiles_along(Along::kRowWise ? p.rules.columns : p.rules.rows, Along::kTilePlaces);
  const int64_t first_line = block / chunks * Along::kTileLines, chunk = block % chunks;
  const int64_t line_anchor = Along::kRowWise ? p.rules.first : 0, place_anchor = Along::kRowWise ? 0 : p.rules.first;
  const LineRules<T> rules{p.rules.positive ? p.rules.positive + line_anchor + first_line : nullptr, lines - first_line,
                           p.online, p.margin};
  LineStates<Along, T> states;
  for (int64_t tile = tiles * chunk / chunks; tile < tiles * (chunk + 1) / chunks; ++tile) {
    const int64_t first_place = tile * Along::kTilePlaces;
    const int64_t row = Along::kRowWise ? first_line : first_place, column = Along::kRowWise ? first_place : first_line;
    Scores scores;
    compute_tile(p.all, row, column, scores);
    mask_tile(scores, p.rules, row, column);
    states.add(scores, rules, place_anchor + first_place);
  }
  const StagedNegatives<T>& out = Along::kRowWise ? p.rows : p.columns;
  const int64_t part = chunk * 2 * lines;
  states.store({out.key + part, out.hinge + part}, lines, first_line, shared_memory());
}

template <class Scores>
struct WalkKernel {
  using Config = typename Scores::Config;
  using Params = WalkParams<typename Scores::Element>;
  static constexpr int kThreads = Config::kThreads;
  static constexpr int kSharedBytes = Config::kSharedBytes;
  static_assert(Config::kRows == kWalkTile && Config::kColumns == kWalkTile);

  static int64_t blocks(const Params& p) {
    return tiles_along(p.rules.rows, kWalkTile) * p.row_chunks +
           tiles_along(p.rules.columns, kWalkTile) * p.column_chunks;
  }

  AOQ_DEVICE static void run(const Params& p) {
    const int64_t row_blocks = tiles_along(p.rules.rows, kWalkTile) * p.row_chunks, block = block_index();
    if (block < row_blocks) {
      walk<ByRow, Scores>(p, block, p.row_chunks);
    } else {
      walk<ByColumn, Scores>(p, block - row_blocks, p.column_chunks);
    }
  }
};

}  // namespace aoq::device
