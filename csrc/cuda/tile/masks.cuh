// Which entries of a tile may be negatives. The others become −inf, which is no negative.
#pragma once

#include <limits>

#include "cuda/tile/order.cuh"
#include "cuda/tile/scores.cuh"

namespace aoq::device {

template <class T>
inline constexpr T kMasked = -std::numeric_limits<T>::infinity();

// Sets to −inf what `is_masked(row, column)` says, both counted within the tile.
template <class Scores, class Predicate>
AOQ_DEVICE void mask_where(Scores& scores, Predicate is_masked) {
  using T = Compute<typename Scores::Element>;
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      if (is_masked(Scores::row(i), Scores::column(j))) scores.at(i, j) = kMasked<T>;
    }
  }
}

template <class Scores>
AOQ_DEVICE void mask_groups(Scores& scores, const int64_t* group, int64_t row_anchor, int64_t rows, int64_t column,
                            int64_t columns) {
  using T = Compute<typename Scores::Element>;
#pragma unroll
  for (int j = 0; j < Scores::kColumns; ++j) {
    const int64_t text = Scores::column(j);
    const int64_t text_group = text < columns ? group[column + text] : 0;
#pragma unroll
    for (int i = 0; i < Scores::kRows; ++i) {
      const int64_t image = Scores::row(i);
      if (image < rows && group[row_anchor + image] == text_group) scores.at(i, j) = kMasked<T>;
    }
  }
}

// Each mask is applied in the tiles that need it alone; `row` and `column` are the first of the tile.
template <class Scores, class T>
AOQ_DEVICE void mask_tile(Scores& scores, const NegativeRules<T>& rules, int64_t row, int64_t column) {
  using Config = typename Scores::Config;
  const int64_t rows = rules.rows - row, columns = rules.columns - column;  // that exist from here on
  if (rows < Config::kRows || columns < Config::kColumns) {
    mask_where(scores, [&](int r, int c) { return r >= rows || c >= columns; });
  }
  const int64_t diagonal = rules.first + row - column;  // row r meets its own text at column r + diagonal
  if (-diagonal < Config::kRows && diagonal < Config::kColumns) {
    mask_where(scores, [&](int r, int c) { return c - r == diagonal; });
  }
  if (rules.group) mask_groups(scores, rules.group, rules.first + row, rows, column, columns);
}

}  // namespace aoq::device
