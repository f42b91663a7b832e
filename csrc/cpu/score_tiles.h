// Walks the score matrix in tiles that stay in cache, so that it never exists whole.
#pragma once

#include <algorithm>

#include "cpu/cache.h"
#include "cpu/operands.h"
#include "cpu/score_reduction.h"

namespace aoq::cpu {

struct TileShape {
  int64_t rows, columns;
};

// A tile fills the second-level caches of two cores; wide rather than tall, so that row reductions stay long.
inline TileShape tile_shape(int64_t rows, int64_t columns, int64_t element_size) {
  constexpr int64_t kWidest = 2048;
  const int64_t elements = 2 * second_level_cache_bytes() / element_size;
  const int64_t width = std::min(columns, kWidest);
  const int64_t height = std::clamp<int64_t>(elements / std::max<int64_t>(width, 1), kBlockColumns, 2 * kWidest);
  return {std::min(rows, height), width};
}

template <class T>
struct ScoreTile {
  T* scores;  // (rows, columns)
  int64_t stride;
  int64_t first_row, rows, first_column, columns;

  T* row(int64_t r) const { return scores + r * stride; }
};

// Row r of S belongs to anchor row + r, column c to anchor column + c; a pair is where the two are the same anchor.
struct AnchorOffsets {
  int64_t row = 0, column = 0;
};

// S of R images and C texts, computed tile by tile into one buffer. A visitor may overwrite the tile.
template <class T>
class EmbeddingScores {
 public:
  EmbeddingScores(const Rows<T>& image, const Rows<T>& text, Similarity similarity, AnchorOffsets first = {})
      : image_(image),
        text_(text),
        similarity_(similarity),
        first_(first),
        shape_(tile_shape(image.count, text.count, sizeof(T))) {
    buffer_ = empty_cpu({shape_.rows * shape_.columns}, kScalarType<T>);
  }

  int64_t rows() const { return image_.count; }
  int64_t columns() const { return text_.count; }
  AnchorOffsets first() const { return first_; }
  TileShape shape() const { return shape_; }

  // The score as score_anchors computes it; a tile may differ by the rounding of another summation order.
  T pair(int64_t i, int64_t j) const { return similarity_of(similarity_, image_.row(i), text_.row(j), image_.width); }

  // From here on, tile entries that could equal a positive p_i or p_j but for rounding are computed as it was, so that
  // comparing them with it is exact: a duplicate of the positive ties with it.
  void resolve_ties_with(const T* positive) {       // of every anchor
    if (similarity_ == Similarity::kOrder) return;  // computed the same way already
    positive_ = positive;
    // |fl(x·y) − x·y| ≤ D·u·Σ|x_d·y_d| in any order, to first order; both sides round
    const T rounding = T(4) * T(image_.width + 2) * std::numeric_limits<T>::epsilon();
    row_band_ = bands(image_, longest(text_), rounding);
    column_band_ = bands(text_, longest(image_), rounding);
  }

  ScoreTile<T> tile(int64_t row, int64_t rows, int64_t column, int64_t columns) const {
    T* scores = static_cast<T*>(buffer_.mutable_data_ptr());
    const ScoreTile<T> tile{scores, columns, row, rows, column, columns};
    if (similarity_ == Similarity::kOrder) {
      order_scores(tile);
    } else {
      Tensor images = image_.tensor, texts = text_.tensor;
      texts = torch::stable::narrow(texts, 0, column, columns);
      mm_out(cpu_view(scores, rows, columns, kScalarType<T>), torch::stable::narrow(images, 0, row, rows),
             torch::stable::transpose(texts, 0, 1));
    }
    if (positive_) resolve_ties(tile);
    return tile;
  }

 private:
  static T longest(const Rows<T>& rows) {
    T most = T(0);
    for (int64_t i = 0; i < rows.count; ++i) most = std::max(most, dot(rows.row(i), rows.row(i), rows.width));
    return std::sqrt(most);
  }

  static std::vector<T> bands(const Rows<T>& rows, T other_length, T rounding) {
    std::vector<T> band(rows.count);
    for (int64_t i = 0; i < rows.count; ++i) {
      band[i] = rounding * other_length * std::sqrt(dot(rows.row(i), rows.row(i), rows.width));
    }
    return band;
  }

  void resolve_ties(const ScoreTile<T>& tile) const {
    torch::stable::parallel_for(0, tile.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t i = tile.first_row + r;
        T* scores = tile.row(r);
        const T own = positive_[first_.row + i];
        const T *positive = positive_ + first_.column + tile.first_column,
                *column_band = column_band_.data() + tile.first_column;
        const auto is_near = [&](int64_t c) {
          return (std::abs(scores[c] - own) <= row_band_[i]) | (std::abs(scores[c] - positive[c]) <= column_band[c]);
        };
        int near = 0;
        for (int64_t c = 0; c < tile.columns; ++c) near |= is_near(c);
        for (int64_t c = 0; near && c < tile.columns; ++c) {
          if (is_near(c)) scores[c] = pair(i, tile.first_column + c);
        }
      }
    });
  }

  void order_scores(const ScoreTile<T>& tile) const {
    torch::stable::parallel_for(0, tile.rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x = image_.row(tile.first_row + r);
        for (int64_t c = 0; c < tile.columns; ++c) {
          tile.row(r)[c] = -order_distance(x, text_.row(tile.first_column + c), image_.width);
        }
      }
    });
  }

  const Rows<T>&image_, &text_;
  Similarity similarity_;
  AnchorOffsets first_;
  TileShape shape_;
  Tensor buffer_;
  const T* positive_ = nullptr;
  std::vector<T> row_band_, column_band_;
};

// S as the caller computed it, (R, C) contiguous; tiles are views of it, not to be written.
template <class T>
struct GivenScores {
  Tensor scores;
  AnchorOffsets offsets = {};

  int64_t rows() const { return scores.size(0); }
  int64_t columns() const { return scores.size(1); }
  AnchorOffsets first() const { return offsets; }
  TileShape shape() const { return tile_shape(rows(), columns(), sizeof(T)); }
  T* row(int64_t i) const { return static_cast<T*>(scores.data_ptr()) + i * columns(); }
  T pair(int64_t i, int64_t j) const { return row(i)[j]; }
  void resolve_ties_with(const T*) const {}  // the positives are entries of S itself
  ScoreTile<T> tile(int64_t row_index, int64_t rows, int64_t column, int64_t columns) const {
    return {row(row_index) + column, this->columns(), row_index, rows, column, columns};
  }
};

// Calls visit(tile) for every tile, row by row of tiles, columns in order.
template <class Scores, class Visit>
void for_each_score_tile(const Scores& scores, Visit&& visit) {
  const int64_t rows = scores.rows(), columns = scores.columns();
  const TileShape shape = scores.shape();
  for (int64_t row = 0; row < rows; row += shape.rows) {
    for (int64_t column = 0; column < columns; column += shape.columns) {
      visit(scores.tile(row, std::min(shape.rows, rows - row), column, std::min(shape.columns, columns - column)));
    }
  }
}

}  // namespace aoq::cpu
