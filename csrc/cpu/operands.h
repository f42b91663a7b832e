// Inputs as the kernels read them: contiguous rows in the compute type, of unit length for cosine similarity.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "cpu/vector.h"
#include "dispatch.h"
#include "params.h"

namespace aoq::cpu {

inline constexpr int64_t kRowGrain = 64;  // rows one thread takes at least

template <class T>
struct Rows {
  Tensor tensor;  // what the rows are: (B, D) or (B, K, D)
  T* data;
  int64_t count, width;
  std::vector<T> norm;  // (count,) lengths before normalisation, for cosine alone

  T* row(int64_t i) const { return data + i * width; }
};

template <class T>
Rows<T> view_rows(const Tensor& tensor) {  // (count, width), contiguous
  return {tensor, static_cast<T*>(tensor.mutable_data_ptr()), tensor.size(0), tensor.size(1), {}};
}

// The values in the compute type, contiguous: the input itself where it is that already.
template <class T>
Tensor as_contiguous(const Tensor& input) {
  if (input.scalar_type() == kScalarType<T> && input.is_contiguous()) return input;
  return torch::stable::contiguous(torch::stable::to(input, kScalarType<T>));
}

// (…, D) of any float dtype and strides, as rows of D
template <class T>
Rows<T> load_rows(const Tensor& input, Similarity similarity) {
  const int64_t width = input.size(input.dim() - 1);
  const int64_t count = input.size(0) * (input.dim() == 3 ? input.size(1) : 1);
  Tensor values = as_contiguous<T>(input);
  if (similarity == Similarity::kCosine) values = torch::stable::clone(values);
  Rows<T> rows{values, static_cast<T*>(values.data_ptr()), count, width, {}};
  if (similarity == Similarity::kCosine) {
    rows.norm.resize(count);
    torch::stable::parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* row = rows.row(i);
        const T norm = std::sqrt(dot(row, row, width));
        rows.norm[i] = norm;
        for (int64_t d = 0; d < width; ++d) row[d] = norm == T(0) ? T(0) : row[d] / norm;
      }
    });
  }
  return rows;
}

// Asks for row i ahead of its use. A row often fills a page, at whose end the hardware's own prefetching stops.
template <class T>
void prefetch_row(const Rows<T>& rows, int64_t i) {
  constexpr int64_t kLine = 64 / sizeof(T);
  if (i >= rows.count) return;
  for (int64_t d = 0; d < rows.width; d += kLine) __builtin_prefetch(rows.row(i) + d);
}

// An offline negative with its K candidates an anchor; empty when the objective has none.
template <class T>
struct Candidates {
  std::optional<Rows<T>> rows;  // (B·K, D)
  int64_t per_anchor = 1;

  const T* at(int64_t anchor, int64_t k) const { return rows->row(anchor * per_anchor + k); }
};

template <class T>
Candidates<T> load_candidates(const std::optional<Tensor>& input, bool needed, Similarity similarity) {
  if (!needed) return {};
  return {load_rows<T>(*input, similarity), input->dim() == 3 ? input->size(1) : 1};
}

// sim(x, y) of an image and a text row.
template <class T>
T similarity_of(Similarity similarity, const T* x, const T* y, int64_t width) {
  return similarity == Similarity::kOrder ? -order_distance(x, y, width) : dot(x, y, width);
}

}  // namespace aoq::cpu
