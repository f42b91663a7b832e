// Scores of a tile by ordinary arithmetic: true float32, float64, and similarities that are not products.
#pragma once

#include <cmath>

#include "cuda/device/element.cuh"
#include "cuda/tile/config.cuh"

namespace aoq::device {

// What one dimension adds to a score, and the score of the sum.
struct DotTerm {
  template <class T>
  AOQ_DEVICE static T add(T sum, T image, T text) {
    return fused_multiply_add(image, text, sum);
  }
  template <class T>
  AOQ_DEVICE static T finish(T sum) {
    return sum;
  }
};

struct OrderTerm {
  template <class T>
  AOQ_DEVICE static T add(T sum, T image, T text) {
    const T gap = text - image;
    const T violation = gap <= T(0) ? T(0) : gap;  // NaN passes
    return fused_multiply_add(violation, violation, sum);
  }
  template <class T>
  AOQ_DEVICE static T finish(T sum) {
    return -std::sqrt(sum);
  }
};

template <class Config, class Element>
AOQ_DEVICE void load_wide(Compute<Element> (&values)[kPieceSize<Element>], const char* rows, int row, int piece) {
  const char* place = rows + row * Config::kSliceBytes + (piece ^ swizzle<Config>(row)) * kPieceBytes;
  const Piece<Element> loaded = load_piece(reinterpret_cast<const Element*>(place));
#pragma unroll
  for (int e = 0; e < kPieceSize<Element>; ++e) values[e] = widen(loaded.element[e]);
}

template <class TileShape, class OperandElement, class Term>
class PlainScores {
 public:
  using Config = TileShape;
  using Element = OperandElement;
  using T = Compute<Element>;
  static constexpr int kRows = Config::kRowsPerWarp / 4, kColumns = Config::kColumnsPerWarp / 8;  // of a thread
  static constexpr int kLanesAlongRow = 8;

  // Where in the tile entry (i, j) of this thread lies. Neighbouring lanes read neighbouring columns, without
  // conflicts.
  AOQ_DEVICE static int row(int i) {
    return warp_index() / Config::kWarpColumns * Config::kRowsPerWarp + i * 4 + lane_index() / 8;
  }
  AOQ_DEVICE static int column(int j) {
    return warp_index() % Config::kWarpColumns * Config::kColumnsPerWarp + j * 8 + lane_index() % 8;
  }

  AOQ_DEVICE T& at(int i, int j) { return scores_[i][j]; }
  AOQ_DEVICE T at(int i, int j) const { return scores_[i][j]; }

  AOQ_DEVICE void accumulate(const char* stage) {
    constexpr int kSize = kPieceSize<Element>;
    const char* right = stage + Config::kRows * Config::kSliceBytes;
#pragma unroll 1
    for (int piece = 0; piece < Config::kSlicePieces; ++piece) {
      T left_values[kRows][kSize];
#pragma unroll
      for (int i = 0; i < kRows; ++i) load_wide<Config, Element>(left_values[i], stage, row(i), piece);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        T right_values[kSize];
        load_wide<Config, Element>(right_values, right, column(j), piece);
#pragma unroll
        for (int e = 0; e < kSize; ++e) {
#pragma unroll
          for (int i = 0; i < kRows; ++i) scores_[i][j] = Term::add(scores_[i][j], left_values[i][e], right_values[e]);
        }
      }
    }
  }

  AOQ_DEVICE static T finish(T sum) { return Term::finish(sum); }

 private:
  T scores_[kRows][kColumns] = {};
};

// The scores of kDiagonalPairs pairs, a thread each; the other threads of the block only load.
template <int kThreads, class OperandElement, class Term>
class PlainDiagonal {
 public:
  using Config = DiagonalConfig<kThreads>;
  using Element = OperandElement;
  using T = Compute<Element>;

  AOQ_DEVICE void accumulate(const char* stage) {
    constexpr int kSize = kPieceSize<Element>;
    const int pair = thread_index();
    if (pair >= kDiagonalPairs) return;
#pragma unroll 1
    for (int piece = 0; piece < Config::kSlicePieces; ++piece) {
      T left[kSize], right[kSize];
      load_wide<Config, Element>(left, stage, pair, piece);
      load_wide<Config, Element>(right, stage + Config::kRows * Config::kSliceBytes, pair, piece);
#pragma unroll
      for (int e = 0; e < kSize; ++e) score_ = Term::add(score_, left[e], right[e]);
    }
  }

  // Calls store(pair, score) for those that this thread holds.
  template <class Store>
  AOQ_DEVICE void for_each(Store store) const {
    if (thread_index() < kDiagonalPairs) store(thread_index(), Term::finish(score_));
  }

 private:
  T score_ = T(0);
};

}  // namespace aoq::device
