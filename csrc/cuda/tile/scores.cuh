// Computes one tile of S, or the scores of some pairs, and hands them over in registers.
#pragma once

#include "cuda/tile/mainloop.cuh"

namespace aoq::device {

template <class Element>
AOQ_DEVICE Compute<Element> scale_of(const Operand<Element>& operand, int64_t entry) {
  return operand.scale && entry < operand.count ? operand.scale[row_of(operand.map, entry)] : 1;
}

// The tile whose first entries are `row` and `column`.
template <class Scores>
AOQ_DEVICE void compute_tile(const Product<typename Scores::Element>& product, int64_t row, int64_t column,
                             Scores& scores) {
  using T = Compute<typename Scores::Element>;
  multiply<typename Scores::Config>({product.left, row, product.right, column, product.width}, product.width, scores);
  T right_scale[Scores::kColumns];
#pragma unroll
  for (int j = 0; j < Scores::kColumns; ++j) right_scale[j] = scale_of(product.right, column + Scores::column(j));
#pragma unroll
  for (int i = 0; i < Scores::kRows; ++i) {
    const T left_scale = scale_of(product.left, row + Scores::row(i));
#pragma unroll
    for (int j = 0; j < Scores::kColumns; ++j) {
      scores.at(i, j) = Scores::finish(scores.at(i, j)) * left_scale * right_scale[j];
    }
  }
}

// The scores of the pairs from entry `first` on that `block` numbers, out of several products.
template <class Diagonal>
AOQ_DEVICE void score_pairs(const PairScores<typename Diagonal::Element>& pairs, int64_t block) {
  int which = 0;
  while (block >= tiles_along(pairs.part[which].product.left.count, kDiagonalPairs)) {
    block -= tiles_along(pairs.part[which++].product.left.count, kDiagonalPairs);
  }
  const auto& part = pairs.part[which];
  const auto& [left, right, width] = part.product;
  const int64_t first = block * kDiagonalPairs;
  Diagonal diagonal;
  multiply<typename Diagonal::Config>({left, first, right, first, width}, width, diagonal);
  diagonal.for_each([&](int pair, auto score) {
    const int64_t entry = first + pair;
    if (entry < left.count) part.scores[entry] = score * scale_of(left, entry) * scale_of(right, entry);
  });
}

}  // namespace aoq::device
