// Walks the score matrix in tiles that stay in cache, so that it never exists whole.
#pragma once

#include <algorithm>

#include "cpu/loss/score_reduction.h"
#include "cpu/product/cache.h"
#include "cpu/product/operands.h"
#include "cpu/product/packed_product.h"

namespace aoq::cpu {

// A rectangle of S.
struct Tile {
  int64_t first_row, rows, first_column, columns;
};

template <class T>
struct Scores {
  T* data;
  int64_t stride;
};

// Row r of S belongs to anchor row + r, column c to anchor column + c; a pair is where the two are the same anchor.
struct AnchorOffsets {
  int64_t row = 0, column = 0;
};

// Whether the processor multiplies rows of S in the packed order; torch's product serves the others.
template <class S>
bool has_packed_product() {
  if constexpr (std::is_same_v<S, double>) return false;
  return has_packed_product(std::is_same_v<S, Bfloat16> ? Word::kBfloat16Pair : Word::kFloat);
}

// Whether the product takes bfloat16 rows of this width as they are.
inline bool multiplies_bfloat16(int64_t width, Similarity similarity, Online online) {
  return similarity == Similarity::kDot && online != Online::kAll && width % 2 == 0 && has_packed_product<Bfloat16>();
}

// S of R images and C texts, computed tile by tile.
template <class S>
class EmbeddingScores {
 public:
  using T = Compute<S>;

  EmbeddingScores(const Rows<S>& image, const Rows<S>& text, Similarity similarity, AnchorOffsets first = {})
      : image_(image),
        text_(text),
        similarity_(similarity),
        first_(first),
        packs_(similarity != Similarity::kOrder && has_packed_product<S>()) {}

  int64_t rows() const { return image_.count; }
  int64_t columns() const { return text_.count; }
  AnchorOffsets first() const { return first_; }

  // A product by torch fills the second-level caches of two cores; wide rather than tall, so that row reductions stay
  // long. A packed one leaves them to a block of scores and the texts it comes from.
  Tile largest_tile() const {
    constexpr int64_t kWidest = 2048, kPackedRows = 21 * kImagePanel;
    const int64_t width = std::clamp<int64_t>(columns(), 1, packs_ ? 2 * kWidest : kWidest);
    const int64_t elements = 2 * second_level_cache_bytes() / int64_t(sizeof(T));
    const int64_t height = packs_ ? kPackedRows : std::clamp<int64_t>(elements / width, kBlockColumns, 2 * kWidest);
    return {0, std::min(rows(), height), 0, width};
  }

  // The score as score_anchors computes it; a tile may differ by the rounding of another summation order.
  T pair(int64_t i, int64_t j) const { return similarity_of(similarity_, image_.row(i), text_.row(j), image_.width); }

  // From here on, scores that could equal a positive p_i or p_j but for rounding are computed as it was, so that
  // comparing them with it is exact: a duplicate of the positive ties with it.
  void resolve_ties_with(const T* positive) {       // of every anchor
    if (similarity_ == Similarity::kOrder) return;  // computed the same way already
    positive_ = positive;
    // |fl(x·y) − x·y| ≤ D·u·Σ|x_d·y_d| in any order, to first order; both sides round
    const T rounding = T(4) * T(image_.width + 2) * std::numeric_limits<T>::epsilon();
    row_band_ = bands(image_, longest(text_), rounding);
    column_band_ = bands(text_, longest(image_), rounding);
  }

  // Before the columns of a tile are asked for. Tiles come one column of them after another.
  void begin(const Tile& tile) {
    if (packs_) {
      if (tile.first_column != packed_column_) texts_.pack(text_.row(tile.first_column), tile.columns, words());
      packed_column_ = tile.first_column;
      images_.pack(image_.row(tile.first_row), tile.rows, words());
    } else if (similarity_ != Similarity::kOrder) {
      if (!product_.defined()) {
        const Tile largest = largest_tile();
        product_ = empty_cpu({largest.rows * largest.columns}, kScalarType<T>);
      }
      Tensor images = image_.tensor, texts = text_.tensor;
      texts = torch::stable::narrow(texts, 0, tile.first_column, tile.columns);
      mm_out(cpu_view(product_.mutable_data_ptr(), tile.rows, tile.columns, kScalarType<T>),
             torch::stable::narrow(images, 0, tile.first_row, tile.rows), torch::stable::transpose(texts, 0, 1));
    }
  }

  // `count` columns of the tile from its column `first`, a multiple of kBlockColumns, in `out` or elsewhere. Any
  // thread.
  Scores<T> columns(const Tile& tile, int64_t first, int64_t count, Scores<T> out) const {
    if (packs_) {
      constexpr Word kWord = std::is_same_v<S, Bfloat16> ? Word::kBfloat16Pair : Word::kFloat;
      packed_product(kWord, images_, texts_, tile.rows, first, count, words(), reinterpret_cast<float*>(out.data),
                     out.stride);
    } else if (similarity_ == Similarity::kOrder) {
      for (int64_t r = 0; r < tile.rows; ++r) {
        for (int64_t c = 0; c < count; ++c) {
          out.data[r * out.stride + c] = pair(tile.first_row + r, tile.first_column + first + c);
        }
      }
    } else {
      out = {static_cast<T*>(product_.mutable_data_ptr()) + first, tile.columns};
    }
    if (positive_) resolve_ties(tile.first_row, tile.rows, tile.first_column + first, count, out);
    return out;
  }

 private:
  int64_t words() const { return image_.width * int64_t(sizeof(S)) / int64_t(sizeof(uint32_t)); }

  static T longest(const Rows<S>& rows) {
    T most = T(0);
    for (int64_t i = 0; i < rows.count; ++i) most = std::max(most, dot(rows.row(i), rows.row(i), rows.width));
    return std::sqrt(most);
  }

  static std::vector<T> bands(const Rows<S>& rows, T other_length, T rounding) {
    std::vector<T> band(rows.count);
    for (int64_t i = 0; i < rows.count; ++i) {
      band[i] = rounding * other_length * std::sqrt(dot(rows.row(i), rows.row(i), rows.width));
    }
    return band;
  }

  void resolve_ties(int64_t first_row, int64_t rows, int64_t first_column, int64_t columns, Scores<T> out) const {
    const T *positive = positive_ + first_.column + first_column, *column_band = column_band_.data() + first_column;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = first_row + r;
      const T own = positive_[first_.row + i];
      T* scores = out.data + r * out.stride;
      const auto is_near = [&](int64_t c) {
        return (std::abs(scores[c] - own) <= row_band_[i]) | (std::abs(scores[c] - positive[c]) <= column_band[c]);
      };
      int near = 0;
      for (int64_t c = 0; c < columns; ++c) near |= is_near(c);
      for (int64_t c = 0; near && c < columns; ++c) {
        if (is_near(c)) scores[c] = pair(i, first_column + c);
      }
    }
  }

  const Rows<S>&image_, &text_;
  Similarity similarity_;
  AnchorOffsets first_;
  bool packs_;
  PackedImages images_;
  PackedTexts texts_;  // of the tiles that begin at packed_column_
  int64_t packed_column_ = -1;
  Tensor product_;  // of a tile, where torch computes it
  const T* positive_ = nullptr;
  std::vector<T> row_band_, column_band_;
};

// S as the caller computed it, (R, C) contiguous, not to be written.
template <class T>
struct GivenScores {
  Tensor scores;
  AnchorOffsets offsets = {};

  int64_t rows() const { return scores.size(0); }
  int64_t columns() const { return scores.size(1); }
  AnchorOffsets first() const { return offsets; }
  Tile largest_tile() const {
    constexpr int64_t kTallest = 1024;  // what a tile needs besides S grows with its rows
    return {0, std::min(rows(), kTallest), 0, columns()};
  }
  T* row(int64_t i) const { return static_cast<T*>(scores.data_ptr()) + i * columns(); }
  T pair(int64_t i, int64_t j) const { return row(i)[j]; }
  void resolve_ties_with(const T*) const {}  // the positives are entries of S itself
  void begin(const Tile&) const {}
  Scores<T> columns(const Tile& tile, int64_t first, int64_t, Scores<T>) const {
    return {row(tile.first_row) + tile.first_column + first, columns()};
  }
};

// Calls visit(tile) for every tile, one column of tiles after another, rows in order.
template <class AnyScores, class Visit>
void for_each_tile(AnyScores& scores, Visit&& visit) {
  const Tile largest = scores.largest_tile();
  for (int64_t column = 0; column < scores.columns(); column += largest.columns) {
    for (int64_t row = 0; row < scores.rows(); row += largest.rows) {
      const Tile tile{row, std::min(largest.rows, scores.rows() - row), column,
                      std::min(largest.columns, scores.columns() - column)};
      scores.begin(tile);
      visit(tile);
    }
  }
}

}  // namespace aoq::cpu
