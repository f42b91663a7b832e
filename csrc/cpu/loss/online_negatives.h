// Finds the online negatives of every anchor, in both directions, in one walk over the tiles of S.
#pragma once

#include <memory>

#include "cpu/loss/groups.h"
#include "cpu/loss/score_tiles.h"

namespace aoq::cpu {

template <class T>
void fold_rows(const std::vector<RowPartial<T>>& partials, int64_t blocks, const Tile& tile, OnlineState<T>& by_row) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.first_row + r;
    for (int64_t b = 0; b < blocks; ++b) {
      const RowPartial<T>& partial = partials[r * blocks + b];
      if (partial.key > by_row.key[row]) {
        by_row.key[row] = partial.key;
        by_row.index[row] = partial.index;
      }
      by_row.sum[row] += partial.sum;
      by_row.active[row] += partial.active;
    }
  }
}

// What decides which entries of S are negatives, beside S: (C,) each.
template <class T>
struct Selection {
  Online online;
  T margin;
  std::vector<T> positive;     // p; read unless online is kHardest
  std::vector<Key<T>> groups;  // or empty

  bool compares_with_positive() const {
    return online == Online::kSemihard || (online == Online::kAll && margin == T(0));
  }
};

// Columns of a block: few enough that many threads find work.
inline int64_t block_columns(int64_t columns) {
  constexpr int64_t kLeast = 64, kBlocks = 16;
  return std::clamp(columns / kBlocks / kLeast * kLeast, kLeast, kBlockColumns);
}

// One walk over S. Column blocks run in parallel and are folded in order, whichever thread was first.
template <class T, class AnyScores>
void reduce_scores(AnyScores& scores, const Selection<T>& selection, OnlineState<T>& by_row,
                   OnlineState<T>& by_column) {
  const int64_t width = block_columns(scores.columns());
  std::vector<RowPartial<T>> partials;
  for_each_tile(scores, [&](const Tile& tile) {
    const int64_t blocks = (tile.columns + width - 1) / width;
    partials.assign(tile.rows * blocks, RowPartial<T>{kNoKey<T>, -1, T(0), T(0)});
    torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      const auto scratch = std::make_unique_for_overwrite<T[]>(tile.rows * width);
      for (int64_t b = begin; b < end; ++b) {
        const int64_t column = b * width, columns = std::min(width, tile.columns - column);
        const Scores<T> block = scores.columns(tile, column, columns, {scratch.get(), width});
        reduce_block(ScoreBlock<T>{.scores = block.data,
                                   .stride = block.stride,
                                   .rows = tile.rows,
                                   .columns = columns,
                                   .first_row = tile.first_row,
                                   .first_column = tile.first_column + column,
                                   .first_anchor = scores.first().row,
                                   .positive = selection.positive.data(),
                                   .group = selection.groups.empty() ? nullptr : selection.groups.data(),
                                   .margin = selection.margin,
                                   .row_key = by_row.key.data(),
                                   .partial = partials.data() + b,
                                   .partial_stride = blocks,
                                   .by_column = &by_column},
                     selection.online);
      }
    });
    fold_rows(partials, blocks, tile, by_row);
  });
}

// A winner's key becomes that of its score computed as the positives are. At margin 0 the hinge compares the two, so
// equal pairs must have equal scores; elsewhere the rounding of another summation order is no matter.
template <class T, class PairScore>
void score_again(OnlineState<T>& state, PairScore pair_score) {
  const int64_t count = int64_t(state.key.size());
  torch::stable::parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (is_negative_key<T>(state.key[i])) state.key[i] = order_key(pair_score(i, state.index[i]));
    }
  });
}

// The online negatives of R images among C texts, and of these texts among these images. Indices are of anchors, and
// column c is anchor c.
template <class T, class AnyScores>
void find_online_negatives(AnyScores scores, const Selection<T>& selection, OnlineState<T>& by_row,
                           OnlineState<T>& by_column) {
  if (selection.compares_with_positive()) scores.resolve_ties_with(selection.positive.data());
  reduce_scores(scores, selection, by_row, by_column);
  if (selection.margin != T(0)) return;
  score_again(by_row, [&](int64_t row, int64_t anchor) { return scores.pair(row, anchor); });
  score_again(by_column,
              [&](int64_t column, int64_t anchor) { return scores.pair(anchor - scores.first().row, column); });
}

// The indices as a tensor (B,); −1 for an anchor without a negative.
template <class T>
Tensor negative_indices(const OnlineState<T>& state) {
  const int64_t count = int64_t(state.index.size());
  const Tensor out = empty_cpu({count}, ScalarType::Long);
  auto* index = static_cast<int64_t*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < count; ++i) index[i] = is_negative_key<T>(state.key[i]) ? state.index[i] : -1;
  return out;
}

}  // namespace aoq::cpu
