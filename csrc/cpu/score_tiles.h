// Walks the score matrix in tiles that stay in cache, so that it never exists whole.
#pragma once

#include <unistd.h>

#include <algorithm>

#include "cpu/operands.h"
#include "cpu/score_reduction.h"

namespace aoq::cpu {

struct TileShape {
  int64_t rows, columns;
};

// A tile fills the second-level caches of two cores; wide rather than tall, so that row reductions stay long.
inline TileShape tile_shape(int64_t count, int64_t element_size) {
  constexpr int64_t kFallbackCache = 1 << 20, kWidest = 2048;
  const long reported = sysconf(_SC_LEVEL2_CACHE_SIZE);
  const int64_t cache = reported > 0 ? reported : kFallbackCache;
  const int64_t elements = 2 * cache / element_size;
  const int64_t columns = std::min(count, kWidest);
  const int64_t rows = std::clamp<int64_t>(elements / std::max<int64_t>(columns, 1), kBlockColumns, 2 * kWidest);
  return {std::min(count, rows), columns};
}

template <class T>
struct ScoreTile {
  T* scores;  // (rows, columns), contiguous
  Tensor tensor;
  int64_t first_row, rows, first_column, columns;
};

template <class T>
void order_scores(const Rows<T>& image, const Rows<T>& text, const ScoreTile<T>& tile) {
  torch::stable::parallel_for(0, tile.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < tile.columns; ++c) {
        tile.scores[r * tile.columns + c] =
            -order_distance(image.row(tile.first_row + r), text.row(tile.first_column + c), image.width);
      }
    }
  });
}

// Calls visit(tile) for every tile, row by row of tiles, columns in order.
template <class T, class Visit>
void for_each_score_tile(const Rows<T>& image, const Rows<T>& text, Similarity similarity, Visit&& visit) {
  const int64_t count = image.count;
  const TileShape shape = tile_shape(count, sizeof(T));
  const Tensor buffer = empty_cpu({shape.rows * shape.columns}, kScalarType<T>);
  T* scores = static_cast<T*>(buffer.mutable_data_ptr());
  Tensor x = image.tensor, y = text.tensor;
  for (int64_t row = 0; row < count; row += shape.rows) {
    for (int64_t column = 0; column < count; column += shape.columns) {
      const int64_t rows = std::min(shape.rows, count - row), columns = std::min(shape.columns, count - column);
      ScoreTile<T> tile{scores, cpu_view(scores, rows, columns, kScalarType<T>), row, rows, column, columns};
      if (similarity == Similarity::kOrder) {
        order_scores(image, text, tile);
      } else {
        Tensor texts = torch::stable::narrow(y, 0, column, columns);
        mm_out(tile.tensor, torch::stable::narrow(x, 0, row, rows), torch::stable::transpose(texts, 0, 1));
      }
      visit(tile);
    }
  }
}

}  // namespace aoq::cpu
